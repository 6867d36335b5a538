"""Bytes that are no honest HTTP, and callers that take their time: each is ended, nobody else notices."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import psutil
import pytest

from served.conftest import CONFIG
from served.door import API_KEY, AUTH, COMPLETIONS, PATIENCE_S, Door, heard, is_closed_within, statuses
from sonoloop.platform.workspace import Store
from sonoloop.serve.keys import Scope, add_key, revoke_key

pytestmark = pytest.mark.ray
HOST = "Host: x\r\n"
BODY = json.dumps({"model": "untrained", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1})
POST = f"POST {COMPLETIONS} HTTP/1.1\r\n{HOST}{AUTH}"
LENGTH = f"Content-Length: {len(BODY)}\r\n"
GET = f"GET /healthz HTTP/1.1\r\n{HOST}"
INNER = f"{GET}\r\n"

SHAPES = {
    "length and chunks": (f"{POST}{LENGTH}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}", [400]),
    "chunks and length": (f"{POST}Transfer-Encoding: chunked\r\n{LENGTH}\r\n0\r\n\r\n{INNER}", [400]),
    "two lengths": (f"{POST}{LENGTH}Content-Length: 5\r\n\r\n{BODY}", [400]),
    "a length with a sign": (f"{POST}Content-Length: +{len(BODY)}\r\n\r\n{BODY}", [400]),
    "a negative length": (f"{POST}Content-Length: -1\r\n\r\n{BODY}", [400]),
    "a length in hex": (f"{POST}Content-Length: 0x10\r\n\r\n{BODY}", [400]),
    "a length beyond 64 bits": (f"{POST}Content-Length: {'9' * 30}\r\n\r\n{BODY}", [400]),
    "an unknown coding": (f"{POST}Transfer-Encoding: xchunked\r\n\r\n{BODY}", [400]),
    "chunked before the last": (f"{POST}Transfer-Encoding: chunked, identity\r\n\r\n{BODY}", [400]),
    "a chunk of no size": (f"{POST}Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n", [400]),
    "a chunk beyond 64 bits": (f"{POST}Transfer-Encoding: chunked\r\n\r\n{'F' * 17}\r\n", [400]),
    "a space before the colon": (f"{POST}Content-Length : {len(BODY)}\r\n\r\n{BODY}", [400]),
    "a head of bare line feeds": (GET.replace("\r\n", "\n") + "\n", [400]),
    "no method": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
    "an unknown method": (f"JANE /healthz HTTP/1.1\r\n{HOST}\r\n", [400]),
    "a NUL in the path": (f"GET /a\0b HTTP/1.1\r\n{HOST}\r\n", [400]),
    "http 2 by surprise": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "an escaped NUL": (f"GET /a%00b HTTP/1.1\r\n{HOST}\r\n", [404]),
    "up and up": (f"GET /../../etc/passwd HTTP/1.1\r\n{HOST}\r\n", [404]),
    "up and up, escaped": (f"GET /..%2f..%2fetc%2fpasswd HTTP/1.1\r\n{HOST}\r\n", [404]),
    "escapes that are none": (f"GET /%ff%zz HTTP/1.1\r\n{HOST}\r\n", [404]),
    "an address to fetch": (f"GET http://169.254.169.254/latest HTTP/1.1\r\n{HOST}\r\n", [404]),
    "headers of 100 KB": (GET + "".join(f"X-{i}: {'a' * 1000}\r\n" for i in range(100)) + "\r\n", [431]),
    "ten thousand headers": (GET + "".join(f"X-{i}: a\r\n" for i in range(10_000)) + "\r\n", [431]),
    "a header that is no text": (
        f"{GET}X-Request-Id: \xff\r\nserve-multiplexed-model-id: \xff\r\n\r\n",
        [200],
    ),
    "wait for 100": (f"{POST}{LENGTH}Expect: 100-continue\r\n\r\n{BODY}", [100, 200]),
    "three in a row": (INNER * 3, [200, 200, 200]),
    "one and then rubbish": (INNER + "rubbish\r\n\r\n", [400]),
    "a websocket": (
        f"{GET}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        [200],
    ),
    "http 2 by upgrade": (f"{GET}Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", [200]),
    "http 1.0": ("GET /healthz HTTP/1.0\r\n\r\n", [200]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_request_of_doubtful_shape_is_answered_once_and_for_what_it_is(door: Door, name: str) -> None:
    sent, expected = SHAPES[name]
    assert statuses(door.raw(sent.encode("latin-1"), len(expected))) == expected


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_methods_that_no_route_has_are_refused(door: Door, method: str) -> None:
    answer = door.raw(f"{method} {COMPLETIONS} HTTP/1.1\r\n{HOST}{AUTH}\r\n".encode())
    assert statuses(answer)[0] in {400, 404, 405}
    assert API_KEY.encode() not in answer  # TRACE would hand headers back


@pytest.mark.parametrize("path", ["/-/routes", "/-/healthz"])
def test_answers_of_rays_own_have_the_headers_too(door: Door, path: str) -> None:
    headers = httpx.get(door.url + path, timeout=60, trust_env=False).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


def test_it_listens_on_this_machine_only(door: Door) -> None:
    found = [
        place.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for place in process.net_connections("tcp")
        if place.status == psutil.CONN_LISTEN and place.laddr.port == door.port
    ]
    assert set(found) == {"127.0.0.1"}


def test_a_head_without_end_is_cut_off(door: Door) -> None:
    with door.connect() as line:
        line.sendall(GET.encode() + b"X: ")
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            _send_for_ever(line)


@pytest.mark.parametrize("num_more", [0, 20_000, 500_000])
def test_a_head_that_is_too_long_gets_its_status_whatever_still_comes_of_it(
    door: Door, num_more: int
) -> None:
    with door.connect() as line:
        line.sendall(GET.encode() + b"X: " + b"a" * CONFIG.wire.max_head_bytes)
        time.sleep(0.2)  # the answer is on its way, and so is the rest
        line.sendall(b"a" * num_more)
        assert statuses(heard(line)) == [431]
        assert is_closed_within(line, PATIENCE_S)


def test_a_body_that_is_no_http_gets_its_status_whatever_still_comes_of_it(door: Door) -> None:
    with door.connect() as line:
        line.sendall(f"{POST}Transfer-Encoding: chunked\r\n\r\nZZ\r\n".encode())
        time.sleep(0.2)
        line.sendall(b"a" * 500_000)
        assert statuses(heard(line)) == [400]
        assert is_closed_within(line, PATIENCE_S)


def _send_for_ever(line: socket.socket) -> None:
    for _ in range(1000):
        line.sendall(b"a" * 65536)


def test_callers_that_say_nothing_or_little_are_ended(door: Door) -> None:
    limit_s = CONFIG.wire.head_timeout_s
    with ExitStack() as stack:
        lines = [stack.enter_context(door.connect()) for _ in range(3)]
        lines[1].sendall(GET.encode()[:20])
        lines[2].sendall(INNER.encode() + GET.encode()[:20])  # a second request that does not go on
        dripping = stack.enter_context(door.connect())
        threading.Thread(target=drip, args=(dripping, b"GET /"), daemon=True).start()
        begin = time.monotonic()
        for line in (*lines, dripping):
            assert is_closed_within(line, PATIENCE_S)
        assert time.monotonic() - begin > limit_s * 0.5


def drip(line: socket.socket, first: bytes) -> None:
    """A byte now and then, for as long as it is borne."""
    try:
        line.sendall(first)
        while True:
            line.sendall(b"a")
            time.sleep(0.1)
    except OSError:
        pass


def test_a_body_that_drips_gets_its_status(door: Door) -> None:
    with door.connect() as line:
        head = f"{POST}Content-Length: 1000000\r\n\r\n".encode()
        threading.Thread(target=drip, args=(line, head), daemon=True).start()
        assert statuses(heard(line)) == [408]


def test_a_caller_without_a_key_is_told_so_before_its_body_and_may_not_go_on(door: Door) -> None:
    head = POST.replace(API_KEY, "wrong") + "Content-Length: 1000000\r\n\r\n"
    with door.connect() as line:
        threading.Thread(target=drip, args=(line, head.encode()), daemon=True).start()
        assert statuses(heard(line)) == [401]
        assert is_closed_within(line, PATIENCE_S)


def test_a_caller_who_sends_all_of_a_long_body_reads_why_it_was_refused(door: Door) -> None:
    body = b"a" * 8_000_000
    head = f"{POST.replace(API_KEY, 'wrong')}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with door.connect() as line:
        line.sendall(head.encode() + body)
        assert statuses(heard(line)) == [401]
        assert is_closed_within(line, PATIENCE_S)


def test_a_crowd_that_says_nothing_keeps_nobody_out_for_long(door: Door) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(door.connect()) for _ in range(2 * CONFIG.wire.max_connections)]
        deadline = time.monotonic() + PATIENCE_S
        while not _lets_in(door):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert all(is_closed_within(line, PATIENCE_S) for line in lines)


def _lets_in(door: Door) -> bool:
    try:
        return door.is_alive()
    except httpx.TransportError:
        return False


def test_a_caller_that_closes_its_half_or_all_of_the_line_costs_nothing(door: Door) -> None:
    for how in (socket.SHUT_WR, socket.SHUT_RDWR):
        for sent in ("", GET, INNER, POST, f"{POST}{LENGTH}\r\n{BODY[:10]}", f"{POST}{LENGTH}\r\n{BODY}"):
            with door.connect() as line:
                line.sendall(sent.encode())
                line.shutdown(how)
                assert set(statuses(heard(line, 0.1))) <= {200, 400, 503, 429}


def test_an_answer_that_nobody_waits_for_is_stopped_whatever_its_caller_says(door: Door) -> None:
    long = BODY.replace('"max_tokens": 1', '"max_tokens": 900')
    begin = time.monotonic()
    _until_answered(door, long)
    whole_s = time.monotonic() - begin
    for header in ("", "x-request-disconnect-disabled: ?1\r\n"):
        with door.connect() as line:
            line.sendall(f"{POST}{header}Content-Length: {len(long)}\r\n\r\n{long}".encode())
            time.sleep(0.3)
        begin = time.monotonic()
        _until_answered(door, BODY)
        assert time.monotonic() - begin < whole_s / 2


def _until_answered(door: Door, body: str) -> None:
    deadline = time.monotonic() + 300
    while (answer := door.post(body.encode())).status_code != 200:
        assert answer.status_code in {429, 503}
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_caller_cannot_choose_the_proxys_time_out(door: Door) -> None:
    for seconds in ("0.001", "-1", "nan"):
        answer = door.post(BODY.encode(), **{"x-request-timeout-seconds": seconds})
        assert answer.status_code == 200


def test_a_new_key_opens_and_a_revoked_one_closes_within_seconds(door: Door) -> None:
    workspace = Store(str(door.workspace))
    _, key = add_key(workspace, "ward-3", [Scope.CHAT], requests_per_minute=1000)
    _waits_for(door, key, 200)
    answer = door.post(BODY.encode(), Authorization=f"Bearer {key}")
    assert answer.headers["x-ratelimit-limit-requests"] == "1000"
    revoke_key(workspace, "ward-3")
    _waits_for(door, key, 401)


def _waits_for(door: Door, key: str, status: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    headers = {"Authorization": f"Bearer {key}"}
    while (
        httpx.get(f"{door.url}/v1/models", headers=headers, timeout=60, trust_env=False).status_code != status
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
