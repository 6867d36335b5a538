"""What the gate lets through, and what it says where it does not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.jobs.outcomes import outcome, outcomes

from sonoloop.jobs.evaluating.figures import edits_per_case
from sonoloop.jobs.evaluating.outcomes import CaseOutcome, Judged
from sonoloop.jobs.gating.checks import Check, judge
from sonoloop.jobs.gating.comparing import Change, cases_needed, change
from sonoloop.jobs.gating.config import GateConfig
from sonoloop.jobs.gating.evidence import Evidence

OLD, NEW = "nano/old", "nano/new"


def evidence(old: tuple[CaseOutcome, ...], new: tuple[CaseOutcome, ...], **changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "held_out": frozenset(case.case_id for case in new),
        "seen": {NEW: frozenset()},
        "expert_share": 0.4,
        **changes,
    }
    return Evidence(champion=old, challenger=new, **values)


def two(num: int, old: float, new: float, **changes: Any) -> Evidence:
    """A champion and a challenger that are right in these shares of the values."""
    return evidence(outcomes(num, right=old, version=OLD), outcomes(num, right=new, version=NEW), **changes)


def changed(cases: tuple[CaseOutcome, ...], num: int, **changes: Any) -> tuple[CaseOutcome, ...]:
    """The same cases, the first of them otherwise."""
    return tuple(case.model_copy(update=changes) for case in cases[:num]) + cases[num:]


def failed(found: Evidence, gate: GateConfig | None = None) -> dict[str, Check]:
    return {check.name: check for check in judge(found, gate or GateConfig()) if not check.passed}


@pytest.mark.parametrize("num", [15, 60])
def test_a_clear_winner_passes_every_check(num: int) -> None:
    checks = judge(two(num, 0.4, 0.8), GateConfig())
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) == 10


def test_a_model_that_is_no_better_is_refused_for_that() -> None:
    found = failed(two(60, 0.7, 0.7))
    assert "gain" in found
    assert "a rise above 0 is asked" in found["gain"].sentence


def test_a_gain_that_may_be_chance_is_refused_and_the_cases_that_would_show_it_are_named() -> None:
    (gain,) = (check for check in judge(two(30, 0.7, 0.8), GateConfig()) if check.name == "gain")
    figures = gain.figures
    assert (figures["difference"] or 0) > 0 > (figures["lower_bound"] or 0)
    assert not gain.passed
    assert "a gain of this size shows on about" in gain.sentence


def test_too_few_cases_are_refused_with_how_many_more_are_needed() -> None:
    found = failed(two(6, 0.5, 0.8), GateConfig(min_cases=10))
    assert "6 held-out cases of 6 patients; gate.min_cases asks for 10" in found["enough cases"].sentence
    assert "4 more are needed" in found["enough cases"].sentence


def test_what_chose_the_cases_is_told_and_where_none_came_by_lot_what_that_means() -> None:
    def said(**chosen_by: int) -> str:
        (check,) = [
            c for c in judge(two(40, 0.4, 0.8, chosen_by=chosen_by), GateConfig()) if c.name == "enough cases"
        ]
        assert check.passed
        return check.sentence

    assert said() == "40 held-out cases of 40 patients"
    assert said(uncertain=30, random=5).endswith("(chosen to be read: uncertain 30, random 5)")
    assert "uncertain 40; none by lot, so they tell of such cases, not of the archive" in said(uncertain=40)


def test_a_small_gain_on_too_few_cases_needs_more_than_the_least() -> None:
    check = failed(two(30, 0.7, 0.8), GateConfig(min_cases=31))["enough cases"]
    needed = check.figures["needed for the gain"]
    assert needed is not None
    assert needed > 100
    assert f"about {needed - 30:.0f} more to show a gain as large as the measured one" in check.sentence


def test_cases_of_one_patient_show_nothing() -> None:
    old, new = (
        tuple(case.model_copy(update={"patient_key": "one"}) for case in side)
        for side in (outcomes(20, right=0.4, version=OLD), outcomes(20, right=0.8))
    )
    assert failed(evidence(old, new)).keys() == {"enough cases", "gain"}


def test_the_cases_needed_are_those_of_the_textbook() -> None:
    found = Change(
        champion=0.5,
        challenger=0.55,
        difference=0.05,
        low=None,
        high=None,
        lower_bound=None,
        standard_error=0.04,
        num_cases=100,
    )
    # (1.645 + 0.842)^2 * (0.4 / 0.05)^2, where 0.4 is the spread of one case
    assert cases_needed(found, above=0, confidence=0.95, power=0.8) == 396
    assert cases_needed(found, above=0.05, confidence=0.95, power=0.8) is None


def test_a_gain_that_costs_an_organ_is_refused_and_the_organ_is_named() -> None:
    kinds = [("liver", 0.3, 0.9), ("kidney", 0.3, 0.9), ("thyroid", 0.9, 0.6)]
    old, new = (
        tuple(
            outcome(f"{organ}{number:02}", right=shares[side], organ=organ, version=(OLD, NEW)[side])
            for organ, *shares in kinds
            for number in range(40)
        )
        for side in (0, 1)
    )
    found = failed(evidence(old, new))
    assert found.keys() == {"organs"}
    assert found["organs"].sentence.startswith("thyroid: ")
    assert "a loss of 0.1 must be ruled out" in found["organs"].sentence
    (lenient,) = (
        check for check in judge(evidence(old, new), GateConfig(min_organ_cases=41)) if check.name == "organs"
    )
    assert lenient.passed
    assert "thyroid (40)" in lenient.sentence


def test_an_organ_that_may_have_lost_needs_more_cases() -> None:
    found = failed(two(30, 0.7, 0.8), GateConfig(organ_margin=0.01))["organs"]
    assert found.figures["liver: difference"] > 0 > -0.01 > found.figures["liver: lower_bound"]
    assert "which takes about" in found.sentence


@pytest.mark.parametrize("change", [{"drafted": False}, {"empty": True}])
def test_more_invalid_or_empty_drafts_are_refused(change: dict[str, bool]) -> None:
    fine = two(40, 0.4, 0.9)
    worse = evidence(fine.champion, changed(fine.challenger, 1, **change))
    assert failed(worse).keys() == {"usable drafts"}
    assert "0 -> 1" in failed(worse)["usable drafts"].sentence
    assert not failed(worse, GateConfig(max_unusable_rise=1))
    assert not failed(evidence(changed(fine.champion, 1, **change), worse.challenger))


def test_more_edits_are_refused() -> None:
    fine = two(40, 0.4, 0.9)
    worse = evidence(fine.champion, changed(fine.challenger, 30, num_edits=8))
    assert failed(worse).keys() == {"edits"}


def test_a_model_that_is_surer_than_it_is_right_is_refused() -> None:
    fine = two(40, 0.4, 0.8)
    judged = tuple(
        Judged(probability=0.99, calibrated=None, kept=kept) for kept in (True, True, False, False)
    )
    worse = evidence(fine.champion, changed(fine.challenger, 40, judged=judged))
    assert failed(worse).keys() == {"calibration"}


def test_where_too_few_values_have_a_probability_calibration_is_not_measured() -> None:
    fine = two(40, 0.4, 0.8)
    bare = evidence(fine.champion, changed(fine.challenger, 40, judged=()))
    check = failed(bare)["calibration"]
    assert not check.measured
    assert check.verdict == "not measured"
    assert "200 and 0 drafted values" in check.sentence
    few = two(8, 0.4, 0.9)
    assert "40 and 40 drafted values with a probability, 50 each are the least: about 2 more" in (
        failed(few)["calibration"].sentence
    )
    assert not failed(bare, GateConfig(may_be_unmeasured=frozenset({"calibration"})))


def test_a_dead_expert_is_refused_and_an_unknown_one_only_passes_where_that_is_allowed() -> None:
    assert failed(two(40, 0.4, 0.8, expert_share=0.004)).keys() == {"experts"}
    unknown = two(40, 0.4, 0.8, expert_share=None)
    assert "experts" in failed(unknown)
    assert not failed(unknown, GateConfig(may_be_unmeasured=frozenset({"experts"})))


def test_a_slower_model_is_refused_and_unknown_times_pass() -> None:
    fine = two(40, 0.4, 0.8)
    assert failed(evidence(fine.champion, changed(fine.challenger, 40, seconds=2.1))).keys() == {"speed"}
    assert not failed(evidence(fine.champion, changed(fine.challenger, 40, seconds=1.9)))
    untimed = evidence(changed(fine.champion, 40, seconds=None), fine.challenger)
    assert not failed(untimed)
    assert "speed" in failed(untimed, GateConfig(may_be_unmeasured=frozenset()))


@pytest.mark.parametrize("drop", ["champion", "challenger", "both"])
def test_evaluations_on_other_cases_are_not_compared(drop: str) -> None:
    fine = two(40, 0.4, 0.8)
    found = evidence(
        fine.champion[1:] if drop != "challenger" else fine.champion,
        fine.challenger[1:] if drop != "champion" else fine.challenger,
        held_out=fine.held_out,
    )
    checks = judge(found, GateConfig())
    assert [check.name for check in checks] == ["same cases", "never trained on"]
    assert not checks[0].passed
    assert " on 39 " in checks[0].sentence


def test_evaluations_with_other_prompts_are_not_compared() -> None:
    fine = two(40, 0.4, 0.8)
    other = evidence(fine.champion, changed(fine.challenger, 40, prompt_version="q"))
    assert "other prompts (p, q)" in failed(other)["same cases"].sentence


def test_a_case_that_was_trained_on_makes_the_comparison_worthless() -> None:
    found = failed(two(40, 0.4, 0.8, seen={"nano/0": frozenset(), NEW: frozenset({"c0003"})}))
    assert found.keys() == {"never trained on"}
    assert (
        "nano/new learned from patients or pictures of 1 of them, c0003 among them"
        in found["never trained on"].sentence
    )


def test_both_models_are_drawn_alike_so_that_what_they_share_cancels() -> None:
    """Two models whose edits differ by one in every case differ by exactly one, however the cases vary."""
    old = tuple(
        case.model_copy(update={"num_edits": number % 7 + 1})
        for number, case in enumerate(outcomes(30, right=0.5, version=OLD))
    )
    new = tuple(case.model_copy(update={"num_edits": case.num_edits - 1}) for case in old)
    found = change(old, new, edits_per_case)
    assert (found.difference, found.standard_error) == (pytest.approx(-1), pytest.approx(0, abs=1e-9))
    assert (found.low, found.high) == (pytest.approx(-1), pytest.approx(-1))
