"""What the watch of a run makes of the stages' reports: figures, and what to say of a starving model."""

from __future__ import annotations

import pytest

from sonoloop.jobs.annotating.advice import preparers_needed, starvation
from sonoloop.jobs.annotating.watch import UNITS_TO_JUDGE, WARM_UP_S, Tally, Worked
from sonoloop.jobs.config import AnnotateConfig

READY = 100.0
LATER = READY + WARM_UP_S + 1


def unit(number: int, *, actor: str = "a", busy_s: float = 8.0, waited_s: float = 2.0, first: bool = False):
    """A unit of four cases."""
    return Worked(actor, number, 4, busy_s, waited_s, first)


@pytest.fixture
def tally() -> Tally:
    """Of a run of 100 cases whose first actor was ready at `READY`."""
    tally = Tally(AnnotateConfig(max_preparers=2), 100)
    tally.ready("a", READY)
    return tally


def test_before_an_actor_is_ready_nothing_is_made_up() -> None:
    figures = Tally(AnnotateConfig(), 100).figures(READY)
    assert (figures.cases, figures.done, figures.actors, figures.seconds) == (100, 0, 0, 0)
    assert figures.cases_per_s is figures.left_s is figures.actor_utilisation is figures.tokens_per_s is None


def test_rates_count_from_the_moment_that_the_first_actor_was_ready(tally: Tally) -> None:
    tally.ready("b", READY + 30)
    tally.drafted(unit(0), ["invalid-output"], 200, READY + 10)
    tally.drafted(unit(1), ["invalid-output", "timed-out"], 300, READY + 20)
    figures = tally.figures(READY + 20)
    assert (figures.done, figures.actors, figures.seconds) == (8, 2, 20)
    assert figures.rejected_by_reason == {"invalid-output": 2, "timed-out": 1}
    assert (figures.cases_per_s, figures.tokens_per_s, figures.left_s) == (8 / 20, 25, 92 / (8 / 20))


def test_the_time_left_follows_the_recent_rate(tally: Tally) -> None:
    for number in range(10):
        tally.drafted(unit(number), [], 0, READY + 10 + number)  # 4 cases a second
    for number in range(10, 20):
        tally.drafted(unit(number), [], 0, READY + 20 + 40 * (number - 9))  # 0.1 cases a second
    figures = tally.figures(READY + 420)
    assert figures.recent_cases_per_s == pytest.approx(0.1)
    assert figures.left_s == pytest.approx(20 / 0.1)
    assert figures.cases_per_s == pytest.approx(80 / 420)


def test_a_stage_that_stands_still_slows_the_rate(tally: Tally) -> None:
    tally.drafted(unit(0), [], 0, READY + 10)
    soon, late = tally.figures(READY + 10), tally.figures(READY + 100)
    assert (soon.recent_cases_per_s, late.recent_cases_per_s) == (0.4, 0.04)


def test_actors_are_busy_for_the_share_of_their_time_that_they_spend_on_units(tally: Tally) -> None:
    tally.drafted(unit(0, busy_s=9, waited_s=1), [], 0, READY + 10)
    tally.drafted(unit(1, actor="b", busy_s=5, waited_s=5), [], 0, READY + 10)
    tally.worked("prepare", unit(0, busy_s=2, waited_s=0), READY + 1)
    figures = tally.figures(READY + 10)
    assert (figures.actor_utilisation, figures.preparer_utilisation) == (0.7, 1.0)
    assert (figures.draft_s_per_case, figures.prepare_s_per_case) == (14 / 8, 2 / 4)


def test_a_unit_that_is_done_again_counts_its_cases_once(tally: Tally) -> None:
    tally.drafted(unit(0), ["timed-out"], 0, READY + 10)
    tally.drafted(unit(0), ["timed-out"], 0, READY + 20)
    figures = tally.figures(READY + 20)
    assert (figures.done, figures.rejected_by_reason) == (4, {"timed-out": 1})


def test_what_earlier_attempts_left_is_done_but_makes_no_rate(tally: Tally) -> None:
    tally.before(80)
    tally.drafted(unit(0), [], 0, READY + 10)
    figures = tally.figures(READY + 10)
    assert (figures.done, figures.done_now, figures.cases_per_s, figures.left_s) == (84, 4, 0.4, 40)


@pytest.mark.parametrize(
    ("num_actors", "prepare_s", "draft_s", "needed"),
    [(1, 0.2, 0.2, 1), (1, 0.2, 0.1, 2), (3, 0.5, 0.2, 8), (8, 0.01, 1.0, 1), (1, 0.3, 0.1, 3)],
)
def test_the_preparers_needed_make_cases_as_fast_as_the_actors_take_them(
    num_actors: int, prepare_s: float, draft_s: float, needed: int
) -> None:
    assert preparers_needed(num_actors, prepare_s=prepare_s, draft_s=draft_s) == needed
    assert needed / prepare_s >= num_actors / draft_s * (1 - 1e-9)


def said(config: AnnotateConfig, **changed: float) -> str | None:
    """What is said of two actors that wait half of their time for one busy preparer."""
    case = {"num_actors": 2, "idle_share": 0.5, "num_preparers": 1, "busy_share": 0.95}
    return starvation(config, **{**case, "draft_s": 0.2, "prepare_s": 0.41, **changed})


def test_a_starving_model_is_told_how_many_preparers_would_feed_it() -> None:
    advice = said(AnnotateConfig(max_preparers=1, cpus_per_preparer=0.5))
    assert advice is not None
    assert "wait 50% of the time" in advice
    assert "a preparer takes 0.41 s per case, a model actor 0.2 s" in advice
    assert "feeding 2 model actors takes 5 preparers (2.5 CPUs), there are 1" in advice
    assert "set annotate.max_preparers to 5" in advice
    assert "add CPU nodes" not in advice


def test_where_the_cluster_had_no_room_for_the_preparers_allowed_it_is_nodes_that_are_missing() -> None:
    advice = said(AnnotateConfig(max_preparers=8))
    assert advice is not None
    assert "add CPU nodes, or lower annotate.cpus_per_preparer" in advice
    assert "set annotate.max_preparers" not in advice


@pytest.mark.parametrize(
    "changed", [{"idle_share": 0.1}, {"busy_share": 0.4}, {"num_preparers": 5}, {"prepare_s": 0.05}]
)
def test_nothing_is_said_where_preparers_are_not_what_the_model_waits_for(changed: dict[str, float]) -> None:
    assert said(AnnotateConfig(max_preparers=8), **changed) is None


def test_waiting_while_the_pools_warm_up_is_not_starving(tally: Tally) -> None:
    for number in range(UNITS_TO_JUDGE + 1):
        tally.worked("prepare", unit(number, busy_s=20, waited_s=0), READY + 1)
        tally.drafted(unit(number, busy_s=1, waited_s=9), [], 0, READY + 1)
    assert tally.figures(LATER).advice is None


def test_a_model_that_starves_after_the_warm_up_is_spoken_of_until_the_end(tally: Tally) -> None:
    for number in range(UNITS_TO_JUDGE):
        tally.worked("prepare", unit(number, busy_s=20, waited_s=0), LATER)
        tally.drafted(unit(number, busy_s=1, waited_s=9), [], 0, LATER)
    assert "takes 20 preparers" in (tally.figures(LATER).advice or "")
    for number in range(100):
        tally.drafted(unit(1000 + number, busy_s=100, waited_s=0), [], 0, LATER)
    assert tally.figures(LATER).advice is not None
