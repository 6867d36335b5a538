"""What annotate tells Prometheus; names and meanings stand in `sonoloop.platform.metrics`.

The endpoint is served by the node's dashboard agent, also where there is no dashboard; the agent needs the
packages of ``ray[default]``, which ``ray[serve]`` brings as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from sonoloop.jobs.annotating.ledger import Stage
from sonoloop.platform import metrics


class StageMetrics:
    """What an actor of a stage counts.

    Args:
        stage: Its stage.
        model_version: What drafts.
    """

    def __init__(self, stage: Stage, model_version: str) -> None:
        self._model = {"model_version": model_version}
        self._stage = {"model_version": model_version, "stage": stage}
        self._cases = metrics.counter(metrics.ANNOTATE_CASES)
        self._tokens = metrics.counter(metrics.ANNOTATE_TOKENS)
        self._busy = metrics.counter(metrics.ANNOTATE_BUSY)
        self._waiting = metrics.counter(metrics.ANNOTATE_WAITING)
        self._staged = metrics.counter(metrics.ANNOTATE_STAGE_CASES)
        self._unit = metrics.histogram(metrics.ANNOTATE_UNIT)
        self._ratio = metrics.gauge(metrics.ANNOTATE_BUSY_SHARE)
        self._busy_s = self._waiting_s = 0.0

    def unit(self, num_cases: int, *, busy_s: float, waited_s: float) -> None:
        """A unit that was worked on, after a wait."""
        self._busy_s += busy_s
        self._waiting_s += waited_s
        for counter, amount in ((self._busy, busy_s), (self._waiting, waited_s), (self._staged, num_cases)):
            if amount > 0:  # Ray refuses to count nothing
                counter.inc(amount, self._stage)
        self._unit.observe(busy_s, self._stage)
        self._ratio.set(self._busy_s / max(self._busy_s + self._waiting_s, 1e-9), self._stage)

    def outcomes(self, num_drafts: int, reasons: Mapping[str, int], num_tokens: int) -> None:
        """What became of a unit's cases."""
        if num_drafts:
            self._cases.inc(num_drafts, {**self._model, "status": "draft", "reason": ""})
        for reason, count in reasons.items():
            self._cases.inc(count, {**self._model, "status": "rejected", "reason": reason})
        if num_tokens:
            self._tokens.inc(num_tokens, self._model)


class RunMetrics:
    """How far a run is, and what it costs.

    Args:
        run_id: The run.
    """

    def __init__(self, run_id: str) -> None:
        self._run = {"run_id": run_id}
        self._cases = metrics.gauge(metrics.ANNOTATE_RUN_CASES)
        self._done = metrics.gauge(metrics.ANNOTATE_RUN_DONE)
        self._left = metrics.gauge(metrics.ANNOTATE_RUN_LEFT)
        self._cost = metrics.gauge(metrics.ANNOTATE_RUN_COST)

    def set(self, done: int, cases: int, left_s: float | None) -> None:
        """So many of so many are done, and about so long it takes still, where that is known."""
        self._cases.set(cases, self._run)
        self._done.set(done, self._run)
        if left_s is not None:
            self._left.set(left_s, self._run)

    def spent(self, cost: float, currency: str) -> None:
        """What it has cost so far."""
        self._cost.set(cost, {**self._run, "currency": currency})
