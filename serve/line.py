"""The line before the model: bounded, and able to say when there will be room again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from sonoloop.serve.protocol import ApiError

SMOOTHING = 0.1
"""Weight of the newest answer in the mean time that requests stay: the last twenty or so count."""
FIRST_STAY_S, MAX_RETRY_AFTER_S = 5.0, 60


class Line:
    """Places for the requests that are answered and for those that wait. Belongs to one event loop.

    Args:
        capacity: Requests that are answered at the same time.
        max_waiting: Requests that may wait beside them.

    Attributes:
        num_inside: Requests that have a place now.
        num_refused: Requests that found none.
    """

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self._capacity, self._most = capacity, capacity + max_waiting
        self._mean_stay_s: float | None = None
        self.num_inside = self.num_refused = 0

    def check(self) -> None:
        """Refuse where there is no place, before any work is done for the request.

        Raises:
            ApiError: 429, with the time after which a place should be free.
        """
        if self.num_inside < self._most:
            return
        self.num_refused += 1
        wait_s = self.retry_after_s()
        raise ApiError(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"{self._most} requests are being answered or wait already; come back in {wait_s} s",
            code="overloaded",
            retry_after_s=wait_s,
        )

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for the length of a request; given back however it ends.

        Only one that ends without an exception teaches how long requests stay: a refusal takes next to no
        time, and who hangs up says nothing of the model.

        Raises:
            ApiError: as of `check`.
        """
        self.check()
        begin = time.monotonic()
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1
        self._learn(time.monotonic() - begin)

    def retry_after_s(self) -> int:
        """Seconds until everybody who waits now has been let in, at the rate of the last answers.

        Source: Little's law; requests inside / mean stay = requests that leave per second.
        """
        stay_s = FIRST_STAY_S if self._mean_stay_s is None else self._mean_stay_s
        num_before = max(0, self.num_inside - self._capacity) + 1
        wait_s = num_before * stay_s / max(1, self.num_inside)
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s)))

    def _learn(self, stay_s: float) -> None:
        known = stay_s if self._mean_stay_s is None else self._mean_stay_s
        self._mean_stay_s = known + SMOOTHING * (stay_s - known)
