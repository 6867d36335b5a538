"""The ledger: whom a death is counted for, and how a unit that died is done again."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sonoloop.jobs.annotating.closing import RunCounts
from sonoloop.jobs.annotating.guard import refuse_many_rejections
from sonoloop.jobs.annotating.ledger import LADDERS, Ledger, Orders, Stage, Way
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.platform.errors import Reason, TooManyRejectionsError

CASES = tuple("abcd")
LIMIT_S = 10.0


@dataclass
class Actor:
    """Does unit 7 as ordered; its clock is the ledger's."""

    ledger: Ledger
    stage: Stage = "draft"
    now: float = 0.0

    def begin(self, cases: tuple[str, ...] = CASES) -> Orders:
        return self.ledger.begin(self.stage, 7, cases, actor_id="one", now=self.now)

    def take(self, *cases: str) -> None:
        self.ledger.take(self.stage, 7, cases, now=self.now)

    def die(self, after_s: float = 1.0) -> None:
        self.now += after_s
        self.ledger.born("one", now=self.now)


@pytest.fixture
def actor() -> Actor:
    return Actor(ledger())


def ledger() -> Ledger:
    return Ledger(max_attempts=2, case_timeout_s=LIMIT_S)


def on_trial(actor: Actor) -> Orders:
    """Two deaths with all cases in hand, of which most come from outside."""
    for _ in range(2):
        assert actor.begin().way is Way.TOGETHER
        actor.die()
    return actor.begin()


def test_a_model_tries_a_unit_twice_together_and_then_case_by_case(actor: Actor) -> None:
    orders = on_trial(actor)
    assert (orders.way, orders.suspects, orders.verdicts) == (Way.ON_TRIAL, CASES, {})


def test_a_preparer_goes_case_by_case_at_once_and_keeps_what_they_give() -> None:
    actor = Actor(ledger(), "prepare")
    actor.begin()
    actor.die()
    assert (actor.begin().way, actor.begin().suspects) == (Way.APART, CASES)


def test_who_was_alone_in_hand_twice_is_to_blame_and_the_cleared_are_not_tried_again(actor: Actor) -> None:
    orders = on_trial(actor)
    for _ in range(2):
        for case in orders.suspects[: orders.suspects.index("c") + 1]:
            actor.take(case)
        actor.die()
        orders = actor.begin()
    assert orders.suspects == ("d",)
    assert orders.verdicts["c"].reason is Reason.CRASHED
    assert orders.verdicts["c"].tries == 4
    assert orders.verdicts["c"].detail == "alone, the case ended its process; tries alone: 2"
    actor.take("d")
    actor.take("a", "b", "d")
    actor.die()  # from outside: the others are tried together once more
    orders = actor.begin()
    assert (orders.way, orders.suspects, set(orders.verdicts)) == (Way.ON_TRIAL, (), {"c"})


def test_what_takes_too_long_together_is_not_tried_together_again(actor: Actor) -> None:
    actor.begin()
    actor.die(after_s=LIMIT_S * len(CASES) + 1)
    assert actor.begin().way is Way.ON_TRIAL
    for _ in range(2):
        actor.take("a")
        actor.die(after_s=LIMIT_S + 1)
        orders = actor.begin()
    assert orders.verdicts["a"].reason is Reason.TIMED_OUT
    assert orders.verdicts["a"].tries == 3


def test_a_unit_that_dies_of_no_single_case_is_done_apart_at_last(actor: Actor) -> None:
    orders = on_trial(actor)
    for case in orders.suspects:
        actor.take(case)
    for _ in range(2):
        actor.take(*CASES)
        actor.die()
        orders = actor.begin()
    assert (orders.way, orders.suspects, orders.verdicts) == (Way.APART, CASES, {})


def test_a_case_that_is_its_whole_unit_is_alone_from_the_beginning(actor: Actor) -> None:
    for _ in range(2):
        assert not actor.begin(("a",)).verdicts
        actor.die()
    assert actor.begin(("a",)).verdicts["a"].tries == 2


def test_a_unit_that_is_done_has_no_past_but_its_verdicts(actor: Actor) -> None:
    on_trial(actor)
    for _ in range(2):
        actor.take("b")
        actor.die()
        actor.begin()
    actor.ledger.end("draft", 7)
    actor.ledger.end("prepare", 7)  # never begun: the guard itself was killed meanwhile
    orders = actor.begin()
    assert (orders.way, orders.suspects, set(orders.verdicts)) == (Way.TOGETHER, (), {"b"})


def test_the_death_of_another_actor_is_not_this_units(actor: Actor) -> None:
    actor.begin()
    actor.ledger.begin("draft", 8, ("x",), actor_id="two", now=0)
    actor.ledger.born("two", now=1)
    actor.ledger.end("draft", 7)
    assert actor.begin().way is Way.TOGETHER


def steps_of(orders: Orders) -> Iterator[tuple[str, ...]]:
    """What an actor takes in hand, one after another."""
    alive = tuple(case for case in CASES if case not in orders.verdicts)
    yield from ((case,) for case in alive if case in orders.suspects)
    if orders.way is not Way.APART:
        yield alive


@given(
    poisons=st.sets(st.sampled_from(CASES)),
    most_at_once=st.integers(1, len(CASES)),
    stage=st.sampled_from(sorted(LADDERS)),
)
def test_every_unit_ends_with_exactly_its_poisons_rejected(
    poisons: set[str], most_at_once: int, stage: Stage
) -> None:
    actor = Actor(ledger(), stage)
    for _deaths in range(4 + 2 * len(CASES) + 1):
        orders = actor.begin()
        for cases in steps_of(orders):
            actor.take(*cases)
            if poisons.intersection(cases) or len(cases) > most_at_once:
                actor.die()
                break
        else:
            break
    assert set(orders.verdicts) == poisons
    assert all(verdict.rejection().retryable for verdict in orders.verdicts.values())


def test_a_rejection_brings_its_tries_along(actor: Actor) -> None:
    for _ in range(2):
        actor.begin(("a",))
        actor.die()
    rejection = pickle.loads(pickle.dumps(actor.begin(("a",)).verdicts["a"].rejection()))
    assert (rejection.reason, rejection.tries, rejection.retryable) == (Reason.CRASHED, 2, True)


def test_too_many_rejections_are_refused_with_the_top_reasons_and_what_to_do() -> None:
    reasons = Counter({"storage": 5, "crashed": 30, "timed-out": 9, "unreadable": 8})
    counts = RunCounts(cases=100, drafted=48, rejected=52, reasons=reasons)
    with pytest.raises(TooManyRejectionsError) as told:
        refuse_many_rejections(AnnotateConfig(), counts)
    assert "52 of 100 cases" in str(told.value)
    assert "crashed (30), timed-out (9), unreadable (8)." in str(told.value)
    assert "--retry-rejected --reason crashed" in str(told.value)
    refuse_many_rejections(AnnotateConfig(max_rejected_share=0.52), counts)
    refuse_many_rejections(AnnotateConfig(max_rejected_share=0), RunCounts())


def test_waiting_for_the_store_must_not_count_as_hanging() -> None:
    with pytest.raises(
        ValidationError, match=r"case_timeout_s \(60\) must be above storage_patience_s \(120\)"
    ):
        AnnotateConfig(case_timeout_s=60)
