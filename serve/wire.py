"""The side of Ray Serve's HTTP proxy that faces the network, made stricter.

By themselves (Ray 2.60, uvicorn 0.54), a head (request line and headers) may take for ever and be of any
length, 200 MB of it are 227 MB of memory; a connection that says nothing is never closed, and neither is one
whose body drips on after the answer, or whose caller reads none of it, or sends an empty line after it; one
that is to be closed after its answer is reset where a body is still coming, so that the answer can be lost;
the proxy believes headers of the caller that turn off its time-out and its watch for hang-ups, and it writes
the caller's ``x-request-id`` into its log.

The proxy is an actor of Ray's, which calls `middlewares` at its start because its environment says so.
"""

from __future__ import annotations

import asyncio
import math
import os
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sonoloop.serve.config import ServeConfig, WireConfig
from sonoloop.serve.guard import SECURITY_HEADERS

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
IMPORT_PATH = "sonoloop.serve.wire:middlewares"

SETTINGS_VARIABLE = "SONOLOOP_WIRE"
KEEP_ALIVE_S = 30
"""For a connection between two requests."""
LINGER_S = 5.0
"""For what still comes after its answer."""
LINGER_BYTES = 2**20
"""Of a head that was refused: more is not waited for. A body may be as long as it comes in that time."""

UNHEARD = frozenset(
    {
        "x-request-id",
        "x-request-timeout-seconds",
        "x-request-disconnect-disabled",
        "x-session-id",
        "serve-multiplexed-model-id",
    }
)
"""Headers by which a caller would steer the proxy, or write into its log."""


def controller_options(config: ServeConfig) -> dict[str, Any]:
    """Ray Serve's controller options: proxies inherit the controller's environment, on every node."""
    variables = {VARIABLE: IMPORT_PATH, SETTINGS_VARIABLE: config.wire.model_dump_json()}
    return {"runtime_env": {"env_vars": variables}}


def http_options(config: ServeConfig) -> dict[str, Any]:
    """Ray Serve's HTTP options."""
    options: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "keep_alive_timeout_s": KEEP_ALIVE_S,
        # behind our own time-outs, which have better words
        "request_timeout_s": config.body_timeout_s + config.longest_answer_s + 10,
    }
    if config.tls_certificate is not None:
        options |= {"ssl_certfile": config.tls_certificate, "ssl_keyfile": config.tls_key}
    return options


def middlewares() -> list[Middleware]:
    """Called by each proxy before it listens."""
    StrictProtocol.limits = WireConfig.model_validate_json(os.environ.get(SETTINGS_VARIABLE, "{}"))
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{StrictProtocol.__name__}"
    return [Middleware(Hygiene, max_head_bytes=StrictProtocol.limits.max_head_bytes)]


class Hygiene:
    """Outermost in the proxy: heads within bounds, no steering, browsers kept to themselves."""

    def __init__(self, app: ASGIApp, max_head_bytes: int) -> None:
        self._app, self._max_head_bytes = app, max_head_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return  # uvicorn closes a websocket that nobody accepts; StrictProtocol lets none come so far
        heard = [(name, value) for name, value in scope["headers"] if _plain(name) not in UNHEARD]

        async def strict_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app: ASGIApp = self._app
        if sum(len(name) + len(value) for name, value in heard) > self._max_head_bytes:
            app = PlainTextResponse(_too_long(self._max_head_bytes), 431)
        await app({**scope, "headers": heard}, receive, strict_send)


def _too_long(max_head_bytes: int) -> str:
    return f"expected headers of at most {max_head_bytes} bytes"


def _plain(name: bytes) -> str:
    return name.decode("latin-1").lower().replace("_", "-")


class _Line:
    """What answers a request takes this for its transport."""

    def __init__(self, protocol: StrictProtocol) -> None:
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)

    def write(self, data: bytes) -> None:
        """Of several requests that came at once, uvicorn tells only the last that its caller is gone."""
        if not self._protocol.transport.is_closing():
            self._protocol.transport.write(data)

    def close(self) -> None:
        """Called after the last answer of a connection."""
        self._protocol.hang_up()


class StrictProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with an end to heads that drip, to silence, and to bodies that nobody reads.

    A subclass of what uvicorn would take by itself. What it builds on is no promise of uvicorn's: the tests
    of hostile input show that it holds.
    """

    limits = WireConfig()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ws_protocol_class = None
        self._deadline: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._in_head = False
        self._num_head_bytes = 0
        self._num_left: float | None = None  # bytes that are still thrown away; None while we read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller more, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
            return
        self._expect_end_within(self.limits.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone."""
        self._expect_end_within(None)
        self._watch_reader(False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of one or more requests; after the last answer they are thrown away."""
        if self._num_left is not None:
            self._num_left -= len(data)
            if self._num_left < 0:
                self.transport.abort()
            return
        super().data_received(data)
        self._num_head_bytes = self._num_head_bytes + len(data) if self._in_head else 0
        if self._num_head_bytes > self.limits.max_head_bytes:
            self._refuse(431, _too_long(self.limits.max_head_bytes))

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(400, msg)

    def _refuse(self, status: int, text: str) -> None:
        """Answer what cannot be read on, and hang up."""
        if self._num_left is not None:
            return
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        if self.pipeline or (is_answering and cycle.response_started):
            self._close()  # a status in the midst of another answer would be read as part of it
            return
        if is_answering:
            cycle.disconnected = True
            cycle.message_event.set()
        head = {
            "content-type": "text/plain; charset=utf-8",
            "content-length": str(len(text)),
            "connection": "close",
            **SECURITY_HEADERS,
        }
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *map(": ".join, head.items()), "", text]
        self.transport.write("\r\n".join(lines).encode("ascii"))
        self._linger(LINGER_BYTES)

    def hang_up(self) -> None:
        """End a connection after its last answer, which may have come before the body was read."""
        if self.cycle.more_body and not self.pipeline and self._num_left is None:
            self._linger(math.inf)
        else:
            self._close()

    def _linger(self, max_bytes: float) -> None:
        """Hang up once the caller can have read the answer.

        To close a connection with unread bytes resets it, and the answer is lost with what came (RFC 9112,
        9.6): so the sending half is closed first, and what still comes is thrown away for a while.
        """
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._num_left = max_bytes
        self.flow.resume_reading()
        self._expect_end_within(LINGER_S)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True
        self._expect_end_within(self.limits.head_timeout_s)

    def on_headers_complete(self) -> None:
        """The head is whole; from here on the application has its own limits."""
        self._in_head = False
        self._expect_end_within(None)
        super().on_headers_complete()
        self.cycle.transport = _Line(self)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """The body is whole."""
        super().on_message_complete()
        self._wait_for_more()

    def on_response_complete(self) -> None:
        """The answer is whole."""
        super().on_response_complete()
        if not self._in_head:
            self._wait_for_more()

    def _wait_for_more(self) -> None:
        """After an answer: for what still comes of its body, which is thrown away, or for the next request.

        uvicorn's own clock stops at any byte, and does not start again for one that begins no request.
        """
        if self.cycle.response_complete:
            self._expect_end_within(LINGER_S if self.cycle.more_body else self.timeout_keep_alive)

    def _expect_end_within(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._close)

    def _close(self) -> None:
        """What is written still goes out, as long as it is taken."""
        self.transport.close()
        self._watch_reader(True)

    def pause_writing(self) -> None:
        """More is written than the caller takes."""
        super().pause_writing()
        self._watch_reader(True)

    def resume_writing(self) -> None:
        """The caller has taken most of it."""
        super().resume_writing()
        self._watch_reader(self.transport.is_closing())

    def _watch_reader(self, is_waited_for: bool, last_left: float = math.inf) -> None:
        """Abort once nothing of what is written was taken for ``write_timeout_s``."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if not is_waited_for:
            return
        num_left = self.transport.get_write_buffer_size()
        if num_left < last_left:
            seconds = self.limits.write_timeout_s
            self._next_look = self.loop.call_later(seconds, self._watch_reader, True, num_left)
        else:
            self.transport.abort()
