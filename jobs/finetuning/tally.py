"""What the workers tell the driver while they train: each step, and why they stopped if they had to.

A stop is told before the error is raised, so that Ray Train's restart of the workers finds it and ends at
once instead of running into the same again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from sonoloop.jobs.finetuning.curve import StepRecord
from sonoloop.jobs.progress import Standing, asked, on_this_node, shown
from sonoloop.platform import metrics
from sonoloop.platform.errors import SonoloopError


@ray.remote(num_cpus=0)
class Tally:
    """Keeps the newest step and the reason to stop; lives as long as its handle."""

    def __init__(self) -> None:
        self._record: StepRecord | None = None
        self._reason: SonoloopError | None = None
        self._steps, self._tokens = (
            metrics.counter(metrics.FINETUNE_STEPS),
            metrics.counter(metrics.FINETUNE_TOKENS),
        )
        self._loss, self._experts = (
            metrics.gauge(metrics.FINETUNE_LOSS),
            metrics.gauge(metrics.FINETUNE_EXPERTS),
        )

    def took(self, record: StepRecord) -> None:
        """A step was taken."""
        self._record = record
        self._steps.inc(1)
        self._tokens.inc(record.num_tokens)
        self._loss.set(record.loss)
        if record.least_used_expert_share is not None:
            self._experts.set(record.least_used_expert_share)

    def last(self) -> StepRecord | None:
        """The newest step."""
        return self._record

    def stop(self, reason: SonoloopError) -> None:
        """The training cannot go on; of several reasons the first counts."""
        self._reason = self._reason or reason

    def reason(self) -> SonoloopError | None:
        """Why the training cannot go on."""
        return self._reason


@contextmanager
def tallied(num_steps: int) -> Iterator[Any]:
    """A `Tally` handle for the workers, shown until the block ends."""
    tally = Tally.options(scheduling_strategy=on_this_node()).remote()  # type: ignore[attr-defined]
    try:
        with shown("finetune steps", _Look(tally, num_steps)):
            yield tally
    finally:
        ray.kill(tally)


class _Look:
    """Looks at a tally; the rate counts from the first step that it sees."""

    def __init__(self, tally: Any, num_steps: int) -> None:
        self._tally, self._num_steps = tally, num_steps
        self._first: tuple[float, int] | None = None

    def __call__(self) -> Standing | None:
        record: StepRecord | None = asked(self._tally.last)
        if record is None:
            return Standing(0, self._num_steps)
        now, done = time.monotonic(), record.step + 1
        since, before = self._first = self._first or (now, done)
        notes = (f"loss {record.loss:.4f}", f"{record.num_tokens / record.seconds:,.0f} tokens/s")
        if done <= before:
            return Standing(done, self._num_steps, notes=notes)
        per_s = (done - before) / (now - since)
        return Standing(done, self._num_steps, per_s, (self._num_steps - done) / per_s, notes)
