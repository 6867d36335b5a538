"""Bad rows alone: a case that kills or hangs its process becomes one rejection, and so does the run that is
nothing but rejections.

Ray restarts an actor that died and gives it the same unit again, for ever. The `Guard` is told what each
stage has in hand, and orders how a unit that died is done again, as its `Ledger` has it. A process that takes
too long over what it has in hand ends itself: Python's fault handler does so even while native code holds
everything else up, and writes into the worker's log where that was.
"""

from __future__ import annotations

import faulthandler
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sonoloop.jobs.annotating.closing import RunCounts
from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.ledger import Ledger, Orders, Stage, Way
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.platform.errors import RejectedError, TooManyRejectionsError
from sonoloop.platform.records import DraftRecord

NUM_TOP_REASONS = 3
STDERR = 2


class Case(Protocol):
    """What has the id of a case."""

    @property
    def case_id(self) -> str:
        """The case."""
        ...


C = TypeVar("C", bound=Case)
R = TypeVar("R")
Work = Callable[[Sequence[C]], list[R | RejectedError]]


def refuse_many_rejections(config: AnnotateConfig, counts: RunCounts) -> None:
    """Stop where too large a share of the cases was rejected.

    Raises:
        TooManyRejectionsError: more than ``annotate.max_rejected_share`` were.
    """
    if counts.rejected <= config.max_rejected_share * counts.cases:
        return
    top = counts.reasons.most_common(NUM_TOP_REASONS)
    raise TooManyRejectionsError(
        f"{counts.rejected} of {counts.cases} cases were rejected, above annotate.max_rejected_share "
        f"({config.max_rejected_share:g}); most often: {', '.join(f'{name} ({n})' for name, n in top)}. When "
        "the cause is mended, the same command goes on, and `sonoloop annotate --retry-rejected --reason "
        f"{top[0][0]}` tries what is rejected again"
    )


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Guard:
    """The ledger of a run and the counts of its rejections. One that is killed starts again and knows less.

    Args:
        config: Limits.
    """

    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config
        self._ledger = Ledger(max_attempts=config.max_attempts, case_timeout_s=config.case_timeout_s)
        self._counts = RunCounts()

    def born(self, actor_id: str) -> None:
        """As `Ledger.born`."""
        self._ledger.born(actor_id, now=time.monotonic())

    def begin(self, stage: Stage, unit: int, case_ids: Sequence[str], actor_id: str) -> Orders:
        """As `Ledger.begin`.

        Raises:
            TooManyRejectionsError: the run is to stop.
        """
        if self._counts.cases >= self._config.min_cases_before_stop:
            refuse_many_rejections(self._config, self._counts)
        return self._ledger.begin(stage, unit, case_ids, actor_id=actor_id, now=time.monotonic())

    def take(self, stage: Stage, unit: int, case_ids: Sequence[str]) -> None:
        """As `Ledger.take`."""
        self._ledger.take(stage, unit, case_ids, now=time.monotonic())

    def end(self, stage: Stage, unit: int) -> None:
        """As `Ledger.end`."""
        self._ledger.end(stage, unit)

    def count(self, num_cases: int, reasons: Counter[str]) -> None:
        """Count cases that are done, and why some of them were rejected; a unit done again counts again."""
        rejected = reasons.total()
        self._counts.add(RunCounts(num_cases, num_cases - rejected, rejected, reasons))


@contextmanager
def guarded(config: AnnotateConfig) -> Iterator[Any]:
    """A `Guard` handle for the workers, on this node, until the block ends."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    guard = Guard.options(scheduling_strategy=here).remote(config)  # type: ignore[attr-defined]
    try:
        yield guard
    finally:
        ray.kill(guard)


class Guarded:
    """A stage's side of the guard; to be made in the actor that does the work.

    Args:
        run: The run.
        stage: Which stage.
    """

    def __init__(self, run: RunContext, stage: Stage) -> None:
        self._guard, self._stage = run.guard, stage
        self._case_timeout_s = run.config.case_timeout_s
        if self._guard is not None:
            self._actor_id = ray.get_runtime_context().get_actor_id()
            self._guard.born.remote(self._actor_id)

    def do(self, unit: int, cases: Sequence[C], work: Work[C, R]) -> list[R | RejectedError]:
        """What ``work`` gives for the cases of a unit, in order, less those that are to blame for a death.

        Raises:
            TooManyRejectionsError: the run is to stop.
        """
        if self._guard is None:
            return work(cases)
        case_ids = [case.case_id for case in cases]
        orders = _answer(self._guard.begin.remote(self._stage, unit, case_ids, self._actor_id))
        alive = [case for case in cases if case.case_id not in orders.verdicts]
        results = iter(self._obey(unit, orders, alive, work))
        outcomes = [
            orders.verdicts[case.case_id].rejection() if case.case_id in orders.verdicts else next(results)
            for case in cases
        ]
        ray.get(self._guard.end.remote(self._stage, unit))
        return outcomes

    def count(self, records: Sequence[DraftRecord]) -> None:
        """Tell what came out of a unit at last."""
        if self._guard is not None:
            reasons = Counter(record.reason for record in records if record.reason is not None)
            self._guard.count.remote(len(records), reasons)

    def _obey(self, unit: int, orders: Orders, alive: list[C], work: Work[C, R]) -> list[R | RejectedError]:
        apart = []
        for case in alive:
            if case.case_id in orders.suspects:
                apart += self._take(unit, [case], work)
        if orders.way is Way.APART:
            return apart
        if orders.suspects:
            return self._take(unit, alive, work)
        return self._limited(alive, work)

    def _take(self, unit: int, cases: list[C], work: Work[C, R]) -> list[R | RejectedError]:
        ray.get(self._guard.take.remote(self._stage, unit, [case.case_id for case in cases]))
        return self._limited(cases, work)

    def _limited(self, cases: list[C], work: Work[C, R]) -> list[R | RejectedError]:
        """Work, or end this process."""
        limit_s = max(1, len(cases)) * self._case_timeout_s
        faulthandler.dump_traceback_later(limit_s, exit=True, file=STDERR)
        try:
            return work(cases)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _answer(reference: Any) -> Orders:
    """What the guard says; its refusal as it was raised there, not as Ray wraps it."""
    try:
        orders: Orders = ray.get(reference)
    except TooManyRejectionsError as err:
        raise err.cause from None  # type: ignore[attr-defined]
    return orders
