from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.labelstudio import config as config_module
from sonoloop.platform.labelstudio.http import Connection, UncertainError

LEGACY = SecretStr("0123456789abcdef")


class _Handler(BaseHTTPRequestHandler):
    """Answers by the path: ``/slow`` after a second, ``/<status>`` with that status."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path))  # type: ignore[attr-defined]
        if "slow" in self.path:
            time.sleep(1)
        status = int(self.path.rpartition("/")[2].partition("?")[0]) if self.path[-1].isdigit() else 200
        body = b'{"detail": "Jane Doe"}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def connection(web) -> Iterator[Connection]:
    with Connection(f"http://127.0.0.1:{web.server_port}/", LEGACY, timeout_s=0.3) as opened:
        yield opened


def test_a_server_that_does_not_answer_is_named_with_what_to_check() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with (
        Connection(f"http://127.0.0.1:{port}", LEGACY, timeout_s=2) as connection,
        pytest.raises(ServiceError, match=f"does not answer at http://127.0.0.1:{port}"),
    ):
        connection.get("/api/projects/")


def test_a_write_without_an_answer_is_uncertain_and_sent_once(connection, web) -> None:
    with pytest.raises(UncertainError, match="gave no answer to POST /slow"):
        connection.write("POST", "/slow", {"text": "Jane Doe"})
    time.sleep(1)
    assert web.seen == [("POST", "/slow")]


def test_a_read_is_tried_again_and_then_given_up(connection, web) -> None:
    with pytest.raises(ServiceError, match=r"failed on GET /503 \(503\)") as caught:
        connection.get("/503")
    assert not isinstance(caught.value, UncertainError)
    assert len(web.seen) == 3


@pytest.mark.parametrize("status", [400, 404, 500])
def test_messages_hold_neither_what_was_sent_nor_what_was_answered(connection, status) -> None:
    with pytest.raises(ServiceError, match=str(status)) as caught:
        connection.write("POST", f"/{status}", {"text": "John Doe"})
    assert "Doe" not in str(caught.value)
    assert LEGACY.get_secret_value() not in str(caught.value)


def test_a_refused_key_says_how_to_make_one(connection) -> None:
    with pytest.raises(ServiceError, match=r"refuses the key .*LABEL_STUDIO_API_KEY"):
        connection.write("POST", "/401")


def test_an_address_that_is_not_label_studio_is_told_apart_from_a_refused_key(web) -> None:
    url = f"http://127.0.0.1:{web.server_port}"
    with (
        Connection(url, SecretStr("a.b.c"), timeout_s=2) as connection,
        pytest.raises(ServiceError, match="where Label Studio would give an access token; check the address"),
    ):
        connection.get("/api/projects/")


def test_the_key_comes_from_the_environment_and_is_missed_by_name(monkeypatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", " abc\n")
    assert config_module.api_key().get_secret_value() == "abc"
    assert "abc" not in repr(config_module.api_key())
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY is not set"):
        config_module.api_key()
