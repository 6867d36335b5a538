"""Metrics of annotate on Ray's Prometheus endpoint, one per node; there, Ray puts ``ray_`` before each name.

| name | type | labels | meaning |
|---|---|---|---|
| sonoloop_annotate_cases_total | counter | model_version, status, reason | cases that left the model stage |
| sonoloop_annotate_tokens_total | counter | model_version | tokens generated |
| sonoloop_annotate_busy_seconds_total | counter | model_version, stage | seconds that actors worked |
| sonoloop_annotate_waiting_seconds_total | counter | model_version, stage | seconds between their units |
| sonoloop_annotate_stage_cases_total | counter | model_version, stage | cases that left a stage |
| sonoloop_annotate_unit_seconds | histogram | model_version, stage | of one unit |
| sonoloop_annotate_actor_busy_ratio | gauge | model_version, stage | share of its time that an actor worked |
| sonoloop_annotate_run_cases | gauge | run_id | cases of the run |
| sonoloop_annotate_run_done_cases | gauge | run_id | of these, the done ones |

``stage`` is ``prepare`` or ``draft``, ``status`` ``draft`` or ``rejected``, ``reason`` empty for a draft. Ray
adds ``NodeAddress`` and ``WorkerId``: one series per actor. Only the two gauges of a run carry its id. Ray
makes a histogram's sum from its buckets' middles (2.60): take means from the counters of seconds. Workers
report every 10 s, and what an actor did in its last seconds may never be: `summary.json` has it.

The endpoint is served by the node's dashboard agent, also where there is no dashboard; the agent needs the
packages of ``ray[default]``, which ``ray[serve]`` brings as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from sonoloop.jobs.annotating.ledger import Stage

PREFIX = "sonoloop_annotate_"
UNIT_BUCKETS_S = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]
_STAGE = ("model_version", "stage")


class StageMetrics:
    """What an actor of a stage counts.

    Args:
        stage: Its stage.
        model_version: What drafts.
    """

    def __init__(self, stage: Stage, model_version: str) -> None:
        self._model = {"model_version": model_version}
        self._stage = {"model_version": model_version, "stage": stage}
        self._cases = Counter(
            f"{PREFIX}cases_total",
            "Cases that left the model stage.",
            tag_keys=("model_version", "status", "reason"),
        )
        self._tokens = Counter(f"{PREFIX}tokens_total", "Tokens generated.", tag_keys=("model_version",))
        self._busy = Counter(f"{PREFIX}busy_seconds_total", "Seconds of work on units.", tag_keys=_STAGE)
        self._waiting = Counter(f"{PREFIX}waiting_seconds_total", "Seconds between units.", tag_keys=_STAGE)
        self._staged = Counter(f"{PREFIX}stage_cases_total", "Cases that left a stage.", tag_keys=_STAGE)
        self._unit = Histogram(
            f"{PREFIX}unit_seconds", "Seconds of one unit.", boundaries=UNIT_BUCKETS_S, tag_keys=_STAGE
        )
        self._ratio = Gauge(
            f"{PREFIX}actor_busy_ratio", "Share of its time that an actor worked.", tag_keys=_STAGE
        )
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
    """How far a run is.

    Args:
        run_id: The run.
    """

    def __init__(self, run_id: str) -> None:
        self._run = {"run_id": run_id}
        self._cases = Gauge(f"{PREFIX}run_cases", "Cases of a run.", tag_keys=("run_id",))
        self._done = Gauge(f"{PREFIX}run_done_cases", "Cases of a run that are done.", tag_keys=("run_id",))

    def set(self, done: int, cases: int) -> None:
        """So many of so many are done."""
        self._cases.set(cases, self._run)
        self._done.set(done, self._run)
