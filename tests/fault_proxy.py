"""A small HTTP proxy before a real server that counts requests, and fails as a server or a network fails.

Before an S3 a key is the object's, before any other server the path without its first part.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse


@dataclass(frozen=True)
class Fault:
    """What the proxy does instead of answering: an error, or a pause; or with the answer: a cut in its body.

    With ``cut_after`` the server has done what it was asked for.
    """

    status: int = 0
    code: str = ""
    cut_after: int | None = None
    pause_s: float = 0
    retry_after_s: int | None = None


@dataclass
class Proxy:
    """``fails`` decides by key and by how often that key was asked for before.

    ``kinds`` counts requests as an S3 charges them: PUT, GET, HEAD, LIST, POST, DELETE.
    """

    endpoint: str
    fails: Callable[[str, int], Fault | None] = lambda _key, _times: None
    asked: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, key: str, kind: str) -> Fault | None:
        """The fault of this request, which is counted."""
        with self.lock:
            times = self.asked[key]
            self.asked[key] += 1
            self.kinds[kind] += 1
        return self.fails(key, times)

    def take_kinds(self) -> Counter[str]:
        """The counts by kind since the last call."""
        with self.lock:
            kinds, self.kinds = self.kinds, Counter()
        return kinds


@contextmanager
def proxy_before(endpoint: str, *, sub_path: str = "", tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A running proxy before this endpoint, which answers below a sub-path, and by TLS, where asked to."""
    backend = urlparse(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def do_PATCH(self) -> None:
            self._answer()

        def _answer(self) -> None:
            sent = self._body()
            self.path = self.path.removeprefix(sub_path)
            key = unquote(urlparse(self.path).path).partition("/")[2].partition("/")[2]
            fault = proxy.fault(key, _kind(self.command, self.path)) or Fault()
            time.sleep(fault.pause_s)
            if fault.status:
                body = f"<Error><Code>{fault.code}</Code><Message>by the test</Message></Error>".encode()
                headers = {"Content-Type": "application/xml"}
                if fault.retry_after_s is not None:
                    headers["Retry-After"] = str(fault.retry_after_s)
                self._send(fault.status, headers, body)
                return
            try:
                status, headers, body = self._forwarded(sent)
            except OSError:  # the backend is away
                self.close_connection = True
                return
            length = int(headers.get("Content-Length") or 0) if self.command == "HEAD" else len(body)
            if fault.cut_after is not None:
                self._send(status, headers, body[: fault.cut_after], length)
                self.close_connection = True
                return
            self._send(status, headers, body, length)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _forwarded(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = HTTPConnection(backend.hostname or "", backend.port or 80, timeout=20)
            try:
                headers = {n: v for n, v in self.headers.items() if n.lower() != "transfer-encoding"}
                connection.request(self.command, self.path, body=sent, headers=headers)
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        def _send(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in (
                    "content-length",
                    "connection",
                    "transfer-encoding",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    proxy = Proxy(f"{scheme}://127.0.0.1:{server.server_port}{sub_path}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _kind(method: str, path: str) -> str:
    query = parse_qs(urlparse(path).query, keep_blank_values=True)
    return "LIST" if method == "GET" and {"list-type", "prefix"} & set(query) else method
