"""Waiting out a store that does not answer or answers that it is busy: bounded, with growing pauses."""

from __future__ import annotations

import gc
import logging
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sonoloop.platform.errors import UnreachableError
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
OUTAGES_AT_MOST = 10
"""Of one piece of long work; the next one is the person's to look at."""


class Patience:
    """Calls until the store answers; for calls that may be made twice.

    An outage is waited for once: after it outlasted the patience, further calls have one try each until one
    succeeds.

    Args:
        patience_s: Seconds that one outage may last.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._failing_since: float | None = None

    def __call__(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the call returns.

        Raises:
            UnreachableError: the store did not answer for so long.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                result = call(*args, **kwargs)
            except UnreachableError:
                now = time.monotonic()
                self._failing_since = self._failing_since or now
                left_s = self._failing_since + self._patience_s - now
                if left_s <= 0:
                    raise
                time.sleep(min(left_s, pause_s * random.uniform(0.5, 1)))  # spread: many workers wait at once
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self._failing_since = None
                return result


def through_outages(
    workspace: Store, patience_s: float, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Do long work that goes on where it stopped, once more after each outage of the store that broke it.

    Args:
        workspace: The store.
        patience_s: Seconds that one outage may last.
        work: What to do.
        *args: With these.
        **kwargs: And these.

    Raises:
        UnreachableError: an outage lasted longer, or there were too many.
    """
    num_outages = 0
    while True:
        try:
            with storage_errors(workspace.uri):  # of what Ray Data reads and writes by itself
                return work(*args, **kwargs)
        except UnreachableError as err:
            num_outages += 1
            if num_outages > OUTAGES_AT_MOST:
                raise
            logger.warning("the store failed, waiting for it (%s)", err)
            Patience(patience_s)(workspace.check)
        gc.collect()  # the traceback of what failed keeps Ray Data's actors, and their CPUs
