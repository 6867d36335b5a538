"""The watch of a run: a small actor to which the stages report each unit, and the figures made of that.

Nobody waits for it. A run whose watch dies goes on, and has no figures from then on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from sonoloop.jobs.annotating.advice import starvation
from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.figures import Figures
from sonoloop.jobs.annotating.ledger import Stage
from sonoloop.jobs.annotating.metrics import RunMetrics, StageMetrics
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.platform.records import DraftRecord

WINDOW_S = 60.0
"""The recent rate is over so long, or over `UNITS_IN_WINDOW` units of each actor where these take longer."""
UNITS_IN_WINDOW = 4
WARM_UP_S = 20.0
"""After the first actor was ready: pools grow, and what waits between the stages fills up."""
UNITS_TO_JUDGE = 5


@dataclass(frozen=True, slots=True)
class Worked:
    """A unit that an actor of a stage is done with.

    Attributes:
        actor: The actor.
        unit: The unit.
        num_cases: Its cases.
        busy_s: Seconds from its beginning to its end.
        waited_s: Seconds from the end of the actor's unit before it, or since the actor was ready.
        is_first: Whether it was the actor's first.
    """

    actor: str
    unit: int
    num_cases: int
    busy_s: float
    waited_s: float
    is_first: bool


@dataclass
class Sums:
    """Of some units of a stage."""

    actors: set[str] = field(default_factory=set)
    num_units: int = 0
    num_cases: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0

    def add(self, work: Worked) -> None:
        """Count a unit."""
        self.actors.add(work.actor)
        self.num_units += 1
        self.num_cases += work.num_cases
        self.busy_s += work.busy_s
        self.waited_s += work.waited_s

    @property
    def busy_share(self) -> float | None:
        """Share of the actors' time that they worked; None before the first unit."""
        return self.busy_s / (self.busy_s + self.waited_s) if self.busy_s + self.waited_s else None

    @property
    def s_per_case(self) -> float | None:
        """Seconds of one actor per case; None before the first one."""
        return self.busy_s / self.num_cases if self.num_cases else None


class Tally:
    """What was reported, added up. Moments are seconds of one clock.

    Args:
        config: The run's settings.
        num_cases: Of the run.
    """

    def __init__(self, config: AnnotateConfig, num_cases: int) -> None:
        self._config, self._num_cases = config, num_cases
        self._before = 0
        self._units: set[int] = set()
        self._ready: dict[str, float] = {}
        self._reasons: Counter[str] = Counter()
        self._done = self._tokens = 0
        self._all: dict[Stage, Sums] = {"prepare": Sums(), "draft": Sums()}
        self._steady: dict[Stage, Sums] = {"prepare": Sums(), "draft": Sums()}
        self._recent: deque[tuple[float, int]] = deque()
        self._advice: str | None = None

    def before(self, num_cases: int) -> None:
        """So many cases of the run were durable when it was resumed."""
        self._before = num_cases

    def ready(self, actor: str, now: float) -> None:
        """A model actor has loaded its weights."""
        self._ready.setdefault(actor, now)
        if not self._recent:
            self._recent.append((now, 0))

    def worked(self, stage: Stage, work: Worked, now: float) -> None:
        """A stage is done with a unit."""
        self._all[stage].add(work)
        if self._ready and now >= min(self._ready.values()) + WARM_UP_S and not work.is_first:
            self._steady[stage].add(work)

    def drafted(self, work: Worked, reasons: Sequence[str], num_tokens: int, now: float) -> None:
        """The model stage is done with a unit; one that is done again counts as work, not as cases."""
        self.worked("draft", work, now)
        self._tokens += num_tokens
        if work.unit in self._units:
            return
        self._units.add(work.unit)
        self._done += work.num_cases
        self._reasons.update(reasons)
        self._recent.append((now, self._done))
        most = UNITS_IN_WINDOW * max(1, len(self._ready)) + 1
        while len(self._recent) > most and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()

    def figures(self, now: float) -> Figures:
        """Everything by now."""
        seconds = now - min(self._ready.values()) if self._ready else 0.0
        draft, prepare = self._all["draft"], self._all["prepare"]
        recent = self._recent_rate(now)
        done = min(self._before + self._done, self._num_cases)
        self._advice = self._starvation() or self._advice  # what was said once, stays said
        return Figures(
            cases=self._num_cases,
            done=done,
            done_now=self._done,
            rejected_by_reason=dict(self._reasons),
            tokens=self._tokens,
            seconds=seconds,
            cases_per_s=self._done / seconds if self._done and seconds else None,
            tokens_per_s=self._tokens / seconds if self._tokens and seconds else None,
            recent_cases_per_s=recent,
            left_s=(self._num_cases - done) / recent if recent else None,
            actors=len(self._ready),
            actor_utilisation=draft.busy_share,
            preparers=len(prepare.actors),
            preparer_utilisation=prepare.busy_share,
            draft_s_per_case=draft.s_per_case,
            prepare_s_per_case=prepare.s_per_case,
            advice=self._advice,
        )

    def _recent_rate(self, now: float) -> float | None:
        if len(self._recent) < 2:
            return None
        since, done_then = self._recent[0]
        return (self._done - done_then) / (now - since) if now > since else None

    def _starvation(self) -> str | None:
        """Judged on what came after the warm-up."""
        draft, prepare = self._steady["draft"], self._steady["prepare"]
        if draft.num_units < UNITS_TO_JUDGE or not draft.s_per_case or not prepare.s_per_case:
            return None
        return starvation(
            self._config,
            num_actors=len(draft.actors),
            idle_share=1 - (draft.busy_share or 0),
            num_preparers=len(prepare.actors),
            busy_share=prepare.busy_share or 0,
            draft_s=draft.s_per_case,
            prepare_s=prepare.s_per_case,
        )


@ray.remote(num_cpus=0)
class Watch:
    """A `Tally` with a clock, on the driver's node; lives as long as its handle."""

    def __init__(self, run_id: str, config: AnnotateConfig, num_cases: int) -> None:
        self._tally = Tally(config, num_cases)
        self._metrics = RunMetrics(run_id)

    def before(self, num_cases: int) -> None:
        """As `Tally.before`."""
        self._tally.before(num_cases)

    def ready(self, actor: str) -> None:
        """As `Tally.ready`."""
        self._tally.ready(actor, time.monotonic())

    def prepared(self, work: Worked) -> None:
        """As `Tally.worked`."""
        self._tally.worked("prepare", work, time.monotonic())

    def drafted(self, work: Worked, reasons: Sequence[str], num_tokens: int) -> None:
        """As `Tally.drafted`."""
        self._tally.drafted(work, reasons, num_tokens, time.monotonic())

    def read(self) -> Figures:
        """As `Tally.figures`."""
        figures = self._tally.figures(time.monotonic())
        self._metrics.set(figures.done, figures.cases, figures.left_s)
        return figures

    def spent(self, cost: float, currency: str) -> None:
        """What the run has cost so far."""
        self._metrics.spent(cost, currency)


class Reporter:
    """What an actor of a stage tells the watch and Prometheus; nothing where the run has no watch.

    Made when the actor is ready. ``begin`` before each unit, ``prepared`` or ``drafted`` after it.

    Args:
        run: The run.
        stage: The actor's stage.
    """

    def __init__(self, run: RunContext, stage: Stage) -> None:
        self._watch: Any = run.watch
        if self._watch is None:
            return
        self._metrics = StageMetrics(stage, run.model_version)
        self._actor = ray.get_runtime_context().get_actor_id() or ""
        self._is_first = True
        self._began = self._ended = time.monotonic()
        if stage == "draft":
            self._watch.ready.remote(self._actor)

    def begin(self) -> None:
        """A unit begins."""
        self._began = time.monotonic()

    def prepared(self, unit: int, num_cases: int) -> None:
        """It is prepared."""
        if self._watch is not None:
            self._watch.prepared.remote(self._worked(unit, num_cases))

    def drafted(self, unit: int, records: Sequence[DraftRecord]) -> None:
        """It is drafted, into these rows."""
        if self._watch is None:
            return
        reasons = [str(record.reason) for record in records if record.status == "rejected"]
        num_tokens = sum(record.num_tokens or 0 for record in records)
        self._metrics.outcomes(len(records) - len(reasons), Counter(reasons), num_tokens)
        self._watch.drafted.remote(self._worked(unit, len(records)), reasons, num_tokens)

    def _worked(self, unit: int, num_cases: int) -> Worked:
        now = time.monotonic()
        busy_s, waited_s = now - self._began, self._began - self._ended
        work = Worked(self._actor, unit, num_cases, busy_s, waited_s, self._is_first)
        self._metrics.unit(num_cases, busy_s=busy_s, waited_s=waited_s)
        self._is_first, self._ended = False, now
        return work
