"""What is known of the units under way: which case was in hand when a process died, and who is to blame.

A process that dies takes its unit with it, and Ray does the unit again. A unit that dies again and again
climbs a ladder (`Ladder`): first it is done as ever, for most deaths are no case's fault; then its cases
are tried one by one until the culprits are known, and it is drafted without them, together, so that the
others' drafts do not depend on how the culprits were found; a unit that dies of no single case is at last
drafted case by case. Every death counts for a case that was alone or for its unit, so the ladder ends.

Nothing of this knows of Ray or of clocks: times are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from sonoloop.platform.errors import Reason, RejectedError

Stage = Literal["prepare", "draft"]


class Way(Enum):
    """How a unit is done: at once; cases first one by one, on trial; or each case for itself."""

    TOGETHER = "together"
    ON_TRIAL = "on trial"
    APART = "apart"


@dataclass(frozen=True)
class Ladder:
    """Steps from which a unit is done in another way; each death with several cases in hand is one."""

    on_trial: int
    apart: int

    def way(self, steps: int) -> Way:
        """The way to do a unit that has climbed so far."""
        if steps >= self.apart:
            return Way.APART
        return Way.ON_TRIAL if steps >= self.on_trial else Way.TOGETHER

    def climbed(self, steps: int, *, late: bool) -> int:
        """Where a death leads: one step up, or, as what takes too long is no accident, to the next way."""
        return steps + (self.on_trial - steps % self.on_trial if late else 1)


LADDERS: Mapping[Stage, Ladder] = {
    "prepare": Ladder(on_trial=1, apart=1),
    "draft": Ladder(on_trial=2, apart=4),
}
"""A preparer takes cases one by one anyway: to name each costs a millisecond. A model that takes them one by
one is several times slower, and most deaths (a lost node, a machine short of memory) come from outside: a
second try together costs a restart for a culprit, and saves the slow trial for everybody else."""


@dataclass(frozen=True)
class Verdict:
    """A case that is not to be touched again in this run."""

    reason: Reason
    tries: int
    detail: str

    def rejection(self) -> RejectedError:
        """As the stages pass it on."""
        return RejectedError(self.reason, self.detail, retryable=True, tries=self.tries)


@dataclass(frozen=True)
class Orders:
    """How to do a unit.

    Attributes:
        way: How.
        suspects: Cases to be tried alone first, or all that is left of the unit where it is done apart.
        verdicts: Cases that are rejected; the unit is done without them.
    """

    way: Way
    suspects: tuple[str, ...]
    verdicts: Mapping[str, Verdict]


@dataclass
class _Unit:
    """A unit that is under way, or died, or has culprits; ``deaths`` are those with several in hand."""

    actor_id: str = ""
    in_hand: tuple[str, ...] = ()
    since: float = 0.0
    deaths: int = 0
    steps: int = 0
    deaths_alone: Counter[str] = field(default_factory=Counter)
    cleared: set[str] = field(default_factory=set)
    verdicts: dict[str, Verdict] = field(default_factory=dict)


class Ledger:
    """Who has what in hand.

    Args:
        max_attempts: Deaths of a case alone after which it is rejected.
        case_timeout_s: Seconds after which a process ends itself, for each case that it has in hand.
    """

    def __init__(self, *, max_attempts: int, case_timeout_s: float) -> None:
        self._max_attempts, self._case_timeout_s = max_attempts, case_timeout_s
        self._units: dict[tuple[Stage, int], _Unit] = {}

    def born(self, actor_id: str, *, now: float) -> None:
        """A process starts; what its forerunner had in hand and did not end, it died of."""
        for (stage, _), known in self._units.items():
            if known.actor_id == actor_id:
                self._bury(stage, known, now)

    def begin(self, stage: Stage, unit: int, case_ids: Sequence[str], *, actor_id: str, now: float) -> Orders:
        """An actor takes up a unit; whoever had it in hand and did not end it, died of it."""
        known = self._units.setdefault((stage, unit), _Unit())
        self._bury(stage, known, now)
        known.actor_id = actor_id
        way = LADDERS[stage].way(known.steps)
        left = [case_id for case_id in case_ids if case_id not in known.verdicts]
        suspects = _suspects(way, left, known.cleared)
        known.in_hand, known.since = (() if suspects else tuple(left)), now
        return Orders(way, tuple(suspects), dict(known.verdicts))

    def take(self, stage: Stage, unit: int, case_ids: Sequence[str], *, now: float) -> None:
        """An actor takes these cases of its unit in hand, and is done with those it had."""
        known = self._units.get((stage, unit))
        if known is not None:
            if len(known.in_hand) == 1:
                known.cleared.update(known.in_hand)
            known.in_hand, known.since = tuple(case_ids), now

    def end(self, stage: Stage, unit: int) -> None:
        """A unit is done; who is to blame stays known, should it have to be done again."""
        known = self._units.pop((stage, unit), None)
        if known is not None and known.verdicts:
            self._units[stage, unit] = _Unit(verdicts=known.verdicts)

    def _bury(self, stage: Stage, known: _Unit, now: float) -> None:
        """Count a death for the case that was alone in hand, or for the unit."""
        if not known.in_hand:
            return
        late = now - known.since > self._case_timeout_s * len(known.in_hand)
        if len(known.in_hand) == 1:
            self._blame(known, known.in_hand[0], late=late)
        else:
            known.deaths += 1
            known.steps = LADDERS[stage].climbed(known.steps, late=late)
        known.in_hand = ()

    def _blame(self, known: _Unit, case_id: str, *, late: bool) -> None:
        known.deaths_alone[case_id] += 1
        times = known.deaths_alone[case_id]
        if times < self._max_attempts:
            return
        reason = Reason.TIMED_OUT if late else Reason.CRASHED
        what = f"took longer than {self._case_timeout_s:g} s" if late else "ended its process"
        detail = f"alone, the case {what}; tries alone: {times}"
        known.verdicts[case_id] = Verdict(reason, known.deaths + times, detail)


def _suspects(way: Way, left: list[str], cleared: set[str]) -> list[str]:
    if way is Way.ON_TRIAL:
        return [case_id for case_id in left if case_id not in cleared]
    return left if way is Way.APART else []
