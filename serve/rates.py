"""Limits per minute: a bucket of requests and one of tokens for each key, in the memory of the door.

Token buckets: each holds one minute's worth, refills evenly, and is full at first. What an answer costs in
tokens is known at its end, so that bucket may go below nothing, and the next request waits until it is back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from sonoloop.serve.keys import KeyRecord

MINUTE_S = 60.0


@dataclass
class Bucket:
    """One limit.

    Args:
        per_minute: How much it holds, and gets back in a minute.
        clock: Seconds, never going back.
    """

    per_minute: int
    clock: Callable[[], float] = monotonic
    _level: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._level, self._at = float(self.per_minute), self.clock()

    def level(self) -> float:
        """What is in it now; negative after more was taken than there was."""
        now = self.clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / MINUTE_S)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Take, whether it is there or not."""
        self._level = self.level() - amount

    def wait_s(self, amount: float) -> float:
        """Seconds until so much is in it; 0 where it is."""
        return max(0.0, amount - self.level()) * MINUTE_S / self.per_minute


@dataclass
class Meter:
    """Both limits of one key; a limit it does not have never holds."""

    requests: Bucket | None
    tokens: Bucket | None

    @classmethod
    def of(cls, record: KeyRecord, clock: Callable[[], float] = monotonic) -> Meter:
        """Full buckets of a key."""
        limits = record.requests_per_minute, record.tokens_per_minute
        requests, tokens = (None if limit is None else Bucket(limit, clock) for limit in limits)
        return cls(requests, tokens)

    def enter(self) -> tuple[str, float] | None:
        """Count a request in; or, where a limit is reached, which one it is and how many seconds it holds."""
        for kind, bucket in self._buckets():
            if (wait_s := bucket.wait_s(1)) > 0:
                return kind, wait_s
        if self.requests is not None:
            self.requests.take(1)
        return None

    def spend(self, tokens: int) -> None:
        """Charge an answer."""
        if self.tokens is not None:
            self.tokens.take(tokens)

    def headers(self) -> dict[str, str]:
        """Limits, what is left and when all is back, in the headers that OpenAI sends.

        Source: "Rate limits in headers" of OpenAI's guide to rate limits.
        """
        told: dict[str, str] = {}
        for kind, bucket in self._buckets():
            told |= {
                f"x-ratelimit-limit-{kind}": str(bucket.per_minute),
                f"x-ratelimit-remaining-{kind}": str(max(0, math.floor(bucket.level()))),
                f"x-ratelimit-reset-{kind}": f"{bucket.wait_s(bucket.per_minute):.3f}s",
            }
        return told

    def _buckets(self) -> list[tuple[str, Bucket]]:
        both = ("requests", self.requests), ("tokens", self.tokens)
        return [(kind, bucket) for kind, bucket in both if bucket is not None]
