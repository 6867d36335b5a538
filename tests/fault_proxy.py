"""A small HTTP proxy before a real S3 that fails as an S3 or a network fails."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse


@dataclass(frozen=True)
class Fault:
    """What the proxy does instead of answering: an error, a connection cut within the body, or a pause."""

    status: int = 0
    code: str = ""
    cut_after: int | None = None
    pause_s: float = 0


@dataclass
class Proxy:
    """``fails`` decides by key and by how often that key was asked for before."""

    endpoint: str
    fails: Callable[[str, int], Fault | None] = lambda _key, _times: None
    asked: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, key: str) -> Fault | None:
        """The fault of this request, which is counted."""
        with self.lock:
            times = self.asked[key]
            self.asked[key] += 1
        return self.fails(key, times)


@contextmanager
def proxy_before(endpoint: str) -> Iterator[Proxy]:
    """A running proxy before this endpoint."""
    backend = urlparse(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            key = unquote(urlparse(self.path).path).partition("/")[2].partition("/")[2]
            fault = proxy.fault(key) or Fault()
            time.sleep(fault.pause_s)
            if fault.status:
                body = f"<Error><Code>{fault.code}</Code><Message>by the test</Message></Error>".encode()
                self._send(fault.status, {"Content-Type": "application/xml"}, body)
                return
            connection = HTTPConnection(backend.hostname or "", backend.port or 80, timeout=20)
            connection.request("GET", self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            if fault.cut_after is not None:
                self._send(answer.status, dict(answer.getheaders()), body[: fault.cut_after], len(body))
                self.close_connection = True
                return
            self._send(answer.status, dict(answer.getheaders()), body)

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
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
