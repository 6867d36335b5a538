"""What holds for every request to the door, whatever its route: pure ASGI, around the whole application.

- A body has a largest size and must have come within a time, however slowly it drips. JSON has a largest
  number of values too: 15 MB of ``[],[],...`` made pydantic 2.14 take 5 GB and 16 s to say what is wrong.
- All bodies together have a largest size, studies apart, which wait for a reader before they are read.
- Every answer carries headers that tell a browser to keep to itself.
- What no route foresaw is an answer of 500, and a log line with places in the code and no text.
- One log line a request: id, key's name, method, route's pattern, status, seconds, bytes. Never a path, a
  query, a header or a body as they were sent: they may name a patient.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonoloop.platform import logs
from sonoloop.serve.config import ServeConfig
from sonoloop.serve.protocol import ApiError, bad_request

logger = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""On every answer. Source: OWASP HTTP Headers Cheat Sheet; pictures of the page are data or blobs."""

STUDIES_PATH = "/v1/drafts"


class Guard:
    """The middleware.

    Args:
        app: The application.
        config: Limits of a body.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app, self._config = app, config
        self._held = _Held()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        passage = _Passage(scope, receive, send, self._config, self._held)
        with logs.in_request(passage.request_id):
            await self._pass(passage)

    async def _pass(self, passage: _Passage) -> None:
        try:
            passage.check_head()
            await self._app(passage.scope, passage.receive, passage.send)
        except ApiError as err:
            await passage.answer(err)
        except Exception as err:  # the boundary: an exception's text may quote the request
            frames = "".join(traceback.format_tb(err.__traceback__))
            logger.error("request %s failed with %s at\n%s", passage.request_id, type(err).__name__, frames)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            await passage.answer(ApiError(status, "this server failed", code="internal_error"))
        finally:
            passage.let_go()
            passage.log()


@dataclass
class _Held:
    """Bytes of bodies that have come and whose answers have not begun."""

    num_bytes: int = 0


@dataclass
class _Passage:
    """One request on its way through."""

    scope: Scope
    inner_receive: Receive
    inner_send: Send
    config: ServeConfig
    held: _Held
    began: float = field(default_factory=time.monotonic)
    num_bytes: int = 0
    num_held: int = 0
    is_json: bool | None = None
    num_values: int = 0
    is_received: bool = False
    status: int = 0

    @property
    def request_id(self) -> str:
        """What Ray Serve's proxy named it; a caller's own name does not come this far, see `wire`."""
        return Headers(scope=self.scope).get("x-request-id", "-")

    @property
    def max_bytes(self) -> int:
        """Largest body: a study comes with its loops."""
        return self.config.studies.max_bytes if self._is_study else self.config.max_body_bytes

    @property
    def _is_study(self) -> bool:
        return bool(self.scope["path"] == STUDIES_PATH)

    def check_head(self) -> None:
        """Refuse what can be told before any of the body has come."""
        headers = Headers(scope=self.scope)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_bytes:
            raise self._too_large()
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "expected a body as it is, found one with a content encoding; send it uncompressed",
                code="unsupported_encoding",
            )

    async def receive(self) -> Message:
        """The next piece of the body, while there is time and room for it."""
        if self.is_received:
            return await self.inner_receive()  # nothing but the end of the connection
        try:
            async with asyncio.timeout(self.began + self.config.body_timeout_s - time.monotonic()):
                message = await self.inner_receive()
        except TimeoutError:
            raise ApiError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"expected the whole body within {self.config.body_timeout_s:g} s; send less, or faster",
                code="body_timeout",
            ) from None
        self.is_received = not message.get("more_body", False)
        self._weigh(message.get("body", b""))
        return message

    def _weigh(self, piece: bytes) -> None:
        self.num_bytes += len(piece)
        if self.num_bytes > self.max_bytes:
            raise self._too_large()
        if not self._is_study:
            self._hold(len(piece))
        if self.is_json is None and (begun := piece.lstrip()):
            self.is_json = begun.startswith((b"{", b"["))
        if self.is_json:
            self.num_values += sum(map(piece.count, (b",", b"[", b"{")))
        if self.num_values > self.config.max_json_values:
            raise bad_request(
                f"expected JSON of at most {self.config.max_json_values} values; send less at once",
                code="too_many_values",
            )

    def _hold(self, num_bytes: int) -> None:
        self.num_held += num_bytes
        self.held.num_bytes += num_bytes
        if self.held.num_bytes > self.config.max_held_bytes:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "many large requests are here already; come back in a second",
                code="overloaded",
                retry_after_s=1,
            )

    def let_go(self) -> None:
        """What came is no longer held as it came."""
        self.held.num_bytes -= self.num_held
        self.num_held = 0

    async def send(self, message: Message) -> None:
        """Pass the answer on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.let_go()
            headers = MutableHeaders(scope=message)
            for name, value in {**SECURITY_HEADERS, **self.scope["state"].get("limits", {})}.items():
                headers[name] = value
        await self.inner_send(message)

    async def answer(self, err: ApiError) -> None:
        """Tell what went wrong, unless an answer has begun already; then it just ends."""
        if self.status:
            return
        response = Response(err.body().model_dump_json(), err.status, media_type="application/json")
        await response(self.scope, self.receive, self.send)

    def log(self) -> None:
        """The one line of this request; without a status where the caller was gone before."""
        key = self.scope["state"].get("key")
        logger.info(
            "request %s: key %s, %s %s, status %s, %.3f s, %d bytes received",
            self.request_id,
            "-" if key is None else key.name,
            self.scope["method"] if self.scope["method"] in _METHODS else "other",
            _pattern(self.scope.get("route")),
            self.status or "-",
            time.monotonic() - self.began,
            self.num_bytes,
        )

    def _too_large(self) -> ApiError:
        setting = "serve.studies.max_bytes" if self._is_study else "serve.max_body_bytes"
        return ApiError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"expected a body of at most {self.max_bytes} bytes; send less at once, or raise {setting}",
            code="body_too_large",
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def _pattern(route: Any) -> str:
    """A route as it is written in the code; what was asked for may name a patient."""
    return getattr(route, "path", "no route")
