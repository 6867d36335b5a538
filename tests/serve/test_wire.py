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

from sonoloop.serve.wire import StrictProtocol

KEEP_ALIVE_S = 5
ANSWER = "no"
BODY = b"a" * 20_000_000


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that refuses whatever comes, before any of the body was read."""
    server = uvicorn.Server(
        uvicorn.Config(
            PlainTextResponse(ANSWER, 401),
            port=0,
            http=StrictProtocol,
            lifespan="off",
            log_level="error",
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def refused(line: socket.socket, version: str = "1.1", header: str = "") -> bytes:
    """The answer to one long request, read once all of that was sent."""
    line.settimeout(60)
    head = f"POST / HTTP/{version}\r\nHost: x\r\n{header}Content-Length: {len(BODY)}\r\n\r\n"
    line.sendall(head.encode() + BODY)
    answer = b""
    while not answer.endswith(ANSWER.encode()):
        part = line.recv(65536)
        assert part, answer
        answer += part
    return answer


@pytest.mark.parametrize(("version", "header"), [("1.1", "Connection: close\r\n"), ("1.0", "")])
def test_whoever_closes_after_one_answer_reads_it_though_its_body_was_not_read(
    port: int, version: str, header: str
) -> None:
    with socket.create_connection(("127.0.0.1", port)) as line:
        answer = refused(line, version, header)
        assert statuses(answer) == [401]
        assert b"connection: close" in answer.lower()
        assert is_closed_within(line, 60)


def test_after_a_refusal_a_connection_takes_a_request_more_and_ends_when_none_comes(
    port: int,
) -> None:
    with socket.create_connection(("127.0.0.1", port)) as line:
        assert statuses(refused(line)) == [401]
        assert statuses(refused(line)) == [401]
        assert is_closed_within(line, 60)
