"""The calibrators of drafts that are shown in Label Studio, read now and then."""

from __future__ import annotations

import logging
import math
import time

from sonoloop.model.calibration import Calibrator, read_calibrator
from sonoloop.platform.errors import StorageError
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

KEPT_S = 30.0
"""How old a calibrator may be: `sonoloop evaluate` fits one for a version that drafts already."""
PAUSE_S = 5.0
"""Before a workspace that did not answer is asked again: the drafts of a chunk do not each wait for it."""


class Calibrators:
    """The calibrators of a workspace, each kept for `KEPT_S`. May be asked by several threads.

    Args:
        workspace: Where models lie.
    """

    def __init__(self, workspace: Store) -> None:
        self._workspace = workspace
        self._known: dict[tuple[str, str], tuple[Calibrator | None, float]] = {}  # with when it was read

    def read(self, version: str, prompt_version: str) -> Calibrator | None:
        """What the workspace holds now, as `read_calibrator` finds it.

        Raises:
            StorageError: as of `read_calibrator`.
        """
        found = read_calibrator(self._workspace, version, prompt_version)
        self._known[version, prompt_version] = found, time.monotonic()
        return found

    def of(self, version: str, prompt_version: str) -> Calibrator | None:
        """The calibrator of a version's drafts, at most `KEPT_S` old while the workspace answers.

        Where it cannot be read, the one that was read last holds, or none: a draft is worth more than its
        score.
        """
        kept, read_at = self._known.get((version, prompt_version), (None, -math.inf))
        if time.monotonic() - read_at < KEPT_S:
            return kept
        try:
            return self.read(version, prompt_version)
        except StorageError as err:
            logger.warning("no calibrator can be read for %s (%s)", version, type(err).__name__)
            self._known[version, prompt_version] = kept, time.monotonic() - KEPT_S + PAUSE_S
            return kept
