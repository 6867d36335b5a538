"""Keeps what serves equal to the registry's champion, without losing a request."""

from __future__ import annotations

import logging
import time

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from sonoloop.platform import registry
from sonoloop.platform.errors import SonoloopError
from sonoloop.platform.workspace import store_of
from sonoloop.serve import versions
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.gateway import APPLICATION
from sonoloop.serve.metrics import RollingMetrics

logger = logging.getLogger(__name__)

SETTLE_S = 30.0
"""How long a version stays after it was replaced: a request that was read before is asked after."""
DOOR_ANSWERS_WITHIN_S = 30.0
FIRST_PAUSE_S, MAX_PAUSE_S = 30.0, 900.0


class Rolling:
    """One service's changes of its champion.

    A new champion is loaded beside the old one; once it answers, the door sends new requests to it. The old
    one goes when it has finished what it began. A champion that cannot be served leaves the old one at work
    and is tried again after a while, and at once when the alias moves.

    Args:
        settings: Of the service.
        version: What it serves now.
    """

    def __init__(self, settings: ServeSettings, version: str) -> None:
        self._settings, self._serving = settings, version
        self._workspace = store_of(settings.workspace, settings.s3)
        self._door = serve.get_app_handle(APPLICATION)
        self._metrics = RollingMetrics()
        self._failed: str | None = None
        self._trouble: str | None = None
        self._pause_s, self._again_at = FIRST_PAUSE_S, 0.0
        self._replaced_at: dict[str, float] = {}
        self._knows_others = False

    def look(self) -> str | None:
        """Compare, change and tidy up; gives the version that answers from now on, where it changed.

        What goes wrong is logged; the next look tries again.
        """
        before = self._serving
        try:
            self._take_over()
            self._follow()
            self._tidy()
            self._trouble = None
        except (SonoloopError, RayError, RayServeException, TimeoutError) as err:
            if (trouble := str(err)) != self._trouble:  # once, not at every look
                logger.warning("%s goes on serving; the champion is not known: %s", self._serving, trouble)
            self._trouble = trouble
        return self._serving if self._serving != before else None

    def _take_over(self) -> None:
        """Once: versions that somebody left who followed before, and who is lost, count as replaced now."""
        if not self._knows_others:
            now = time.monotonic()
            self._replaced_at = {other: now for other in versions.applications() if other != self._serving}
            self._knows_others = True

    def _follow(self) -> None:
        wanted = registry.resolve(self._workspace, self._settings.model.name, "champion")
        if wanted == self._serving:
            self._failed = None
        elif wanted != self._failed or time.monotonic() >= self._again_at:
            self._change(wanted)

    def _change(self, wanted: str) -> None:
        begin, before = time.monotonic(), self._serving
        logger.info("the champion is %s now; it is loaded beside %s", wanted, before)
        running = versions.applications().get(before)
        try:
            registry.check_available(self._workspace, wanted)
            versions.start_version(
                self._settings, wanted, num_replicas=versions.num_running(running) if running else 1
            )
        except SonoloopError as err:
            self._pause_s = FIRST_PAUSE_S if wanted != self._failed else min(MAX_PAUSE_S, 2 * self._pause_s)
            self._failed, self._again_at = wanted, time.monotonic() + self._pause_s
            self._metrics.failed(wanted)
            logger.error("%s; %s goes on serving, next try in %.0f s", err, before, self._pause_s)
            return
        self._serving, self._failed = wanted, None
        self._replaced_at.pop(wanted, None)
        self._replaced_at[before] = time.monotonic()
        logger.info("%s answers now, after %.1f s", wanted, time.monotonic() - begin)

    def _tidy(self) -> None:
        """Tell the door what serves, and take away what has nothing left to do."""
        busy: dict[str, int] = self._door.switch.remote(self._serving, self._failed).result(
            timeout_s=DOOR_ANSWERS_WITHIN_S
        )
        now, longest_s = time.monotonic(), SETTLE_S + self._settings.serve.longest_answer_s
        for version, replaced_at in list(self._replaced_at.items()):
            stayed_s = now - replaced_at
            if stayed_s > longest_s or (stayed_s > SETTLE_S and version not in busy):
                versions.remove_version(version)
                del self._replaced_at[version]
                logger.info("%s is gone", version)
