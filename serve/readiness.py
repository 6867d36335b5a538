"""What ``/readyz`` tells: the cluster is looked at once for all who ask at the same time."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus

from fastapi.responses import JSONResponse, Response
from ray.serve.schema import ApplicationStatus

from sonoloop.serve import versions

KEPT_S = 1.0
"""How long a look counts, from its end: readiness needs no key, so the cluster is not asked more often."""


class Readiness:
    """Whether a model answers, and which. Belongs to one event loop.

    Args:
        version: What serves, ``<name>/<version>``.
        may_sleep: Whether replicas may be scaled to zero: none at all is ready then, the first question wakes
            one.
    """

    def __init__(self, version: str, *, may_sleep: bool) -> None:
        self._version, self._may_sleep = version, may_sleep
        self._not_served: str | None = None
        self._look: asyncio.Task[tuple[Response, float]] | None = None

    def serves(self, version: str, not_served: str | None) -> None:
        """Tell of this from now on; a look at anything else is dropped, one that is under way as well.

        Args:
            version: What serves, ``<name>/<version>``.
            not_served: A champion that could not be loaded, if any.
        """
        if (version, not_served) != (self._version, self._not_served):
            self._version, self._not_served = version, not_served
            self._look = None

    async def answer(self) -> Response:
        """200 or 503, with the version, its replicas and a champion that is not served; asks no model.

        Raises:
            RayError: Serve does not answer.
        """
        while True:
            if self._look is None or _is_over(self._look):
                self._look = asyncio.create_task(self._looked(self._version, self._not_served))
            look = self._look
            response, _ = await asyncio.shield(look)  # who hangs up takes it from nobody
            if look is self._look:
                return response

    async def _looked(self, version: str, not_served: str | None) -> tuple[Response, float]:
        return await asyncio.to_thread(self._response, version, not_served), time.monotonic()

    def _response(self, version: str, not_served: str | None) -> Response:
        status = versions.applications().get(version)
        num_running = versions.num_running(status) if status else 0
        is_asleep = self._may_sleep and status is not None and status.status is ApplicationStatus.RUNNING
        is_ready = num_running > 0 or is_asleep
        told = {"status": "ready" if is_ready else "not ready", "model": version, "replicas": num_running}
        if not_served is not None:
            told["champion_not_served"] = not_served
        return JSONResponse(told, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)


def _is_over(look: asyncio.Task[tuple[Response, float]]) -> bool:
    """Whether it counts no longer: it failed, or is too old."""
    if not look.done():
        return False
    if look.cancelled() or look.exception() is not None:
        return True
    _, ended = look.result()
    return time.monotonic() - ended > KEPT_S
