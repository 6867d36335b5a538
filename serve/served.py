"""One model version as the door asks it: its replicas, and how many requests are with them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException

from sonoloop.platform.records import DraftRecord
from sonoloop.serve.champion import Event, Question
from sonoloop.serve.drafts.case import CaseEvent, DraftCase
from sonoloop.serve.metrics import DoorMetrics
from sonoloop.serve.protocol import ApiError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
"""After a replica was lost: about what it takes to start another one."""


class Served:
    """The replicas of one version.

    Args:
        version: ``<name>/<version>``.
        handle: Of their deployment, `Champion`.
        metrics: Where answers are counted.

    Attributes:
        num_inside: Requests that the version is busy with, waiting ones included.
    """

    def __init__(self, version: str, handle: Any, metrics: DoorMetrics) -> None:
        self._version, self._handle, self._metrics = version, handle, metrics
        self._streams = handle.options(stream=True)
        self.num_inside = 0

    @property
    def version(self) -> str:
        """``<name>/<version>``."""
        return self._version

    def ask(self, question: Question) -> AsyncGenerator[Event, None]:
        """The answer's events.

        Raises:
            ApiError: a replica was lost in the middle, or twice.
        """
        return self._metrics.watched(self._events(self._streams.answer, question), self._version)

    def write(self, case: DraftCase) -> AsyncGenerator[CaseEvent, None]:
        """Pieces of a case's report, then its draft or rejection.

        Raises:
            ApiError: as of `ask`.
        """
        return self._metrics.drafting(self._events(self._streams.write, case))

    async def _events(self, method: Any, asked: Question | DraftCase) -> AsyncGenerator[Any, None]:
        """What a method of the replica writes; one that is lost before its first event is replaced once."""
        with self._counted():
            for may_repeat in (True, False):
                response, begun = method.remote(asked), False
                try:
                    async for events in response:
                        for event in events:
                            begun = True
                            yield event
                    return
                except (RayError, RayServeException) as err:
                    if begun or not may_repeat or not isinstance(err, RayActorError):
                        raise _lost(err) from None
                    logger.warning("a replica was lost before it answered; another one is asked")
                finally:
                    response.cancel()  # nothing to cancel after the last event

    async def draft(self, cases: list[DraftCase]) -> list[DraftRecord]:
        """A draft or a rejection for each case, in order.

        Raises:
            ApiError: the replica was lost.
        """
        with self._counted():
            try:
                drafts: list[DraftRecord] = await self._handle.draft.remote(cases)
            except (RayError, RayServeException) as err:
                raise _lost(err) from None
            return drafts

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1


def _lost(err: Exception) -> ApiError:
    logger.warning("a replica was lost (%s)", type(err).__name__)
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the model's replica was lost; ask again",
        code="replica_lost",
        retry_after_s=RETRY_AFTER_S,
    )
