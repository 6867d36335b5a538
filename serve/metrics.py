"""What serve tells Prometheus; names and meanings stand in `sonoloop.platform.metrics`.

`CountRequests` is the outermost middleware of the door and sees every answer, refusals of other middleware
included. `DoorMetrics` lives in the door's process, `ReplicaMetrics` in each replica's, `RollingMetrics` with
whoever follows the champion.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeVar

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonoloop.model.chat import ChatPiece, ChatResult
from sonoloop.platform import metrics
from sonoloop.platform.records import DraftRecord
from sonoloop.serve.drafts.case import CaseEvent, DraftedCase

E = TypeVar("E")
MAX_CODES = 64
"""Codes of errors that get a label; what else a caller may provoke counts as ``other``."""


class DoorMetrics:
    """What the door counts.

    Args:
        model_version: The model that answers.
    """

    def __init__(self, model_version: str) -> None:
        self._version = model_version
        self._requests = metrics.counter(metrics.SERVE_REQUESTS)
        self._request_s = metrics.histogram(metrics.SERVE_REQUEST_S)
        self._refused = metrics.counter(metrics.SERVE_REFUSED)
        self._limited = metrics.counter(metrics.SERVE_LIMITED)
        self._open = metrics.gauge(metrics.SERVE_OPEN)
        self._first_s = metrics.histogram(metrics.SERVE_FIRST_TOKEN_S)
        self._answer_s = metrics.histogram(metrics.SERVE_ANSWER_S)
        self._tokens = metrics.counter(metrics.SERVE_TOKENS)
        self._drafts = metrics.counter(metrics.SERVE_DRAFTS)
        self._info = metrics.gauge(metrics.SERVE_VERSION)
        self._changes = metrics.counter(metrics.SERVE_CHANGES)
        self._codes: set[str] = set()
        self._num_open = 0
        self._info.set(1, {"model_version": model_version})

    def changed(self, model_version: str) -> None:
        """Another model answers from now on."""
        self._info.set(0, {"model_version": self._version})
        self._info.set(1, {"model_version": model_version})
        self._version = model_version
        self._changes.inc(1)

    def answered(self, route: str, status: int, seconds: float, code: str | None) -> None:
        """A request was answered, or refused with an error's code."""
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._request_s.observe(seconds, {"route": route})
        if code is not None:
            self._refused.inc(1, {"code": self._known(code)})
            if status == 429:
                self._limited.inc(1, {"code": self._known(code)})

    async def watched(self, events: AsyncGenerator[E, None], version: str) -> AsyncGenerator[E, None]:
        """The same events of one question, measured on their way: until the first, and until the result.

        Args:
            events: Of the answer.
            version: The model that writes it; another one may serve when it ends.
        """
        begin, has_begun = time.monotonic(), False
        with self._open_one():
            async with aclosing(events):
                async for event in events:
                    waited_s = time.monotonic() - begin
                    if isinstance(event, ChatResult):
                        self._took(event, version, waited_s)
                    elif isinstance(event, ChatPiece) and not has_begun:  # and no refusal
                        has_begun = True
                        self._first_s.observe(waited_s)
                    yield event

    async def drafting(self, events: AsyncGenerator[CaseEvent, None]) -> AsyncGenerator[CaseEvent, None]:
        """The same events of one case that came with a request, counted on their way."""
        with self._open_one():
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, DraftedCase):
                        self.drafted([event.record], "api")
                    yield event

    def drafted(self, drafts: Sequence[DraftRecord], source: str) -> None:
        """Drafts that were asked for by ``api`` or ``labelstudio``."""
        for (status, reason), number in Counter((one.status, one.reason or "") for one in drafts).items():
            self._drafts.inc(number, {"source": source, "status": status, "reason": str(reason)})

    def _took(self, result: ChatResult, version: str, seconds: float) -> None:
        self._answer_s.observe(seconds)
        for kind, number in (("prompt", result.prompt_tokens), ("completion", result.completion_tokens)):
            if number:  # Ray refuses to count nothing
                self._tokens.inc(number, {"model_version": version, "kind": kind})

    @contextmanager
    def _open_one(self) -> Iterator[None]:
        self._count_open(1)
        try:
            yield
        finally:
            self._count_open(-1)

    def _count_open(self, change: int) -> None:
        self._num_open += change
        self._open.set(self._num_open)

    def _known(self, code: str) -> str:
        if code not in self._codes and (len(self._codes) >= MAX_CODES or not re.fullmatch(r"[a-z_-]+", code)):
            return "other"
        self._codes.add(code)
        return code


class ReplicaMetrics:
    """What a replica tells of its batch."""

    def __init__(self) -> None:
        self._rows = metrics.gauge(metrics.SERVE_ROWS)
        self._waiting = metrics.gauge(metrics.SERVE_WAITING)

    def load(self, num_rows: int, num_waiting: int) -> None:
        """Rows running and requests waiting, as the engine has them."""
        self._rows.set(num_rows)
        self._waiting.set(num_waiting)


class RollingMetrics:
    """What whoever follows the champion tells."""

    def __init__(self) -> None:
        self._failed = metrics.counter(metrics.SERVE_FAILED_CHANGES)

    def failed(self, model_version: str) -> None:
        """A champion could not be served."""
        self._failed.inc(1, {"model_version": model_version})


class CountRequests:
    """Pure ASGI middleware that counts answers by route and status, and refusals by code.

    Whoever refuses a request sets ``scope["state"]["error_code"]``. A route is named by its template; what no
    route knows is ``other``.

    Args:
        app: What is inside.
        door: Where it is counted.
    """

    def __init__(self, app: ASGIApp, door: DoorMetrics) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count once the answer has ended, whichever way."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 499  # as others count an asker that left before an answer began
        scope.setdefault("state", {})

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            route = scope.get("route")
            name = route.path if isinstance(route, Route) else "other"
            code = scope["state"].get("error_code") if status >= 400 else None
            self._door.answered(name, status, time.monotonic() - begin, code)
