from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.labelstudio import config as config_module
from sonoloop.platform.labelstudio.http import AwayError, Connection, TooLargeError, UncertainError
from sonoloop.platform.stack.ports import free_port

LEGACY = SecretStr("0123456789abcdef")


class _Handler(BaseHTTPRequestHandler):
    """Answers by the path: ``/slow`` after three seconds, ``/<status>`` with it, ``/busy`` with 429 twice."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path))  # type: ignore[attr-defined]
        if "slow" in self.path:
            time.sleep(3)
        busy = "busy" in self.path and len(self.server.seen) < 3  # type: ignore[attr-defined]
        status = (
            429
            if busy
            else int(self.path.rpartition("/")[2].partition("?")[0])
            if self.path[-1].isdigit()
            else 200
        )
        body = b'{"detail": "Jane Doe"}'
        self.send_response(status)
        if busy:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def _serving(port: int = 0) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    with _serving() as server:
        yield server


@pytest.fixture
def connection(web) -> Iterator[Connection]:
    with Connection(f"{_url(web)}/", LEGACY, timeout_s=60) as opened:
        yield opened


def _url(web: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{web.server_port}"


def test_a_server_that_does_not_answer_is_named_with_what_to_check() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with (
        Connection(f"http://127.0.0.1:{port}", LEGACY, timeout_s=60) as connection,
        pytest.raises(ServiceError, match=f"does not answer at http://127.0.0.1:{port}"),
    ):
        connection.get("/api/projects/")


def test_a_write_without_an_answer_is_uncertain_and_sent_once(web) -> None:
    with (
        Connection(_url(web), LEGACY, timeout_s=1) as connection,
        pytest.raises(UncertainError, match="gave no answer to POST /slow"),
    ):
        connection.write("POST", "/slow", {"text": "Jane Doe"})
    time.sleep(1)
    assert web.seen == [("POST", "/slow")]


def test_a_read_is_tried_again_and_then_given_up(connection, web) -> None:
    with pytest.raises(ServiceError, match=r"failed on GET /503 \(503\)") as caught:
        connection.get("/503")
    assert not isinstance(caught.value, UncertainError)
    assert len(web.seen) == 3


def test_a_call_that_is_put_off_is_made_again_when_the_server_says(web) -> None:
    begin = time.monotonic()
    with Connection(_url(web), LEGACY, timeout_s=60, patience_s=60) as connection:
        connection.write("POST", "/busy", {})
    assert web.seen == [("POST", "/busy")] * 3
    assert time.monotonic() - begin >= 2


def test_a_server_that_puts_us_off_for_longer_than_our_patience_is_told(web) -> None:
    with (
        Connection(_url(web), LEGACY, timeout_s=60, patience_s=0.5) as connection,
        pytest.raises(AwayError, match=r"puts off POST /busy \(429\)"),
    ):
        connection.write("POST", "/busy", {})
    assert len(web.seen) == 1


def test_a_server_that_answered_before_is_waited_for_when_it_is_away() -> None:
    with _serving(free_port()) as before:
        connection = Connection(_url(before), LEGACY, timeout_s=60, patience_s=60)
        hasty = Connection(_url(before), LEGACY, timeout_s=60)
        connection.get("/200")
        hasty.get("/200")
    with pytest.raises(AwayError, match="does not answer"):
        hasty.write("POST", "/200", {})
    found: list[object] = []
    writing = threading.Thread(target=lambda: found.append(connection.write("POST", "/200", {})))
    writing.start()
    time.sleep(0.7)
    assert found == []
    with _serving(before.server_port) as after:
        writing.join(60)
        assert after.seen == [("POST", "/200")]  # type: ignore[attr-defined]
    connection.close()
    hasty.close()


def test_a_body_that_is_too_large_is_told_apart(connection) -> None:
    with pytest.raises(TooLargeError, match=r"POST /413 too large \(413\)"):
        connection.write("POST", "/413", {})


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
    with (
        Connection(_url(web), SecretStr("a.b.c"), timeout_s=60) as connection,
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
