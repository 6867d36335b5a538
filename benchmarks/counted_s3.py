"""An HTTP proxy before a real S3 that counts requests by kind, for benchmarks that state them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

_HOP_SENT = ("transfer-encoding", "content-length")
_HOP = ("content-length", "connection", "transfer-encoding", "date", "server")


@dataclass
class CountedS3:
    """An endpoint, and what was asked of it: ``PUT``, ``GET``, ``HEAD``, ``LIST``, ``POST``, ``DELETE``."""

    endpoint: str
    asked: Counter[str] = field(default_factory=Counter)

    def take(self) -> Counter[str]:
        """What was asked since the last call."""
        asked, self.asked = self.asked, Counter()
        return asked


@contextmanager
def counted_s3(endpoint: str) -> Iterator[CountedS3]:
    """A proxy before this endpoint."""
    backend = urlparse(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            proxy.asked[_kind(self.command, self.path)] += 1
            connection = HTTPConnection(backend.hostname or "", backend.port or 80, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_SENT}
            connection.request(self.command, self.path, body=self._body(), headers=headers)
            answer = connection.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            connection.close()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":  # as pyarrow sends what it writes
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = CountedS3(f"http://127.0.0.1:{server.server_port}")
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
