"""The strict protocol on a real uvicorn; in Ray's proxy ``test_hostile_wire`` has it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from served.door import is_closed_within, statuses
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from sonoloop.serve.config import WireConfig
from sonoloop.serve.wire import StrictProtocol

KEEP_ALIVE_S = 5
ANSWER = b"no"
LONG = 50_000_000
BODY = b"a" * 8_000_000


class Strict(StrictProtocol):
    limits = WireConfig(write_timeout_s=3)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers before any of the body was read, at ``/long`` for long."""
    content = ANSWER * LONG if scope["path"] == "/long" else ANSWER
    await PlainTextResponse(content, 401)(scope, receive, send)


@pytest.fixture(scope="module")
def server() -> Iterator[uvicorn.Server]:
    config = uvicorn.Config(
        app, port=0, http=Strict, lifespan="off", log_config=None, timeout_keep_alive=KEEP_ALIVE_S
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    with socket.create_connection(server.servers[0].sockets[0].getsockname()) as line:
        line.sendall(b"GET / HTTP/1.0\r\n\r\n")
        heard(line)  # it has imported all that it needs: pytest looks through the modules between tests
    yield server
    server.should_exit = True
    thread.join()


@pytest.fixture
def line(server: uvicorn.Server) -> Iterator[socket.socket]:
    """A connection that takes little before it is read."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        line.settimeout(60)
        line.connect(server.servers[0].sockets[0].getsockname())
        yield line


def refused(line: socket.socket, version: str = "1.1", header: str = "") -> bytes:
    """The answer to one long request, read once all of that was sent."""
    head = f"POST / HTTP/{version}\r\nHost: x\r\n{header}Content-Length: {len(BODY)}\r\n\r\n"
    line.sendall(head.encode() + BODY)
    return heard(line)


def heard(line: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(ANSWER):
        part = line.recv(65536)
        assert part, answer
        answer += part
    return answer


@pytest.mark.parametrize(("version", "header"), [("1.1", "Connection: close\r\n"), ("1.0", "")])
def test_whoever_closes_after_one_answer_reads_it_though_its_body_was_not_read(
    line: socket.socket, version: str, header: str
) -> None:
    answer = refused(line, version, header)
    assert statuses(answer) == [401]
    assert b"connection: close" in answer.lower()
    assert is_closed_within(line, 60)


def test_after_a_refusal_a_connection_takes_a_request_more_and_ends_when_none_comes(
    line: socket.socket,
) -> None:
    assert statuses(refused(line)) == [401]
    assert statuses(refused(line)) == [401]
    assert is_closed_within(line, 60)


def test_an_empty_line_after_an_answer_does_not_keep_the_connection(line: socket.socket) -> None:
    line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert statuses(heard(line)) == [401]
    line.sendall(b"\r\n")
    assert is_closed_within(line, 60)


@pytest.mark.parametrize("num_asked", [1, 9])
def test_a_caller_who_takes_nothing_of_its_answer_is_ended(
    server: uvicorn.Server, line: socket.socket, num_asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    line.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n" * num_asked)
    deadline = time.monotonic() + 60
    while not server.server_state.connections:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while server.server_state.connections:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_caller_who_takes_its_answer_slowly_has_it_whole(line: socket.socket) -> None:
    line.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    num_bytes = 0
    while part := line.recv(2**20):
        num_bytes += len(part)
        time.sleep(0.005)
    assert num_bytes > len(ANSWER) * LONG
