"""The gate's checks: each looks at one thing and says in a sentence what it found.

A challenger is promoted where every check passes. Passing all of them by chance is no likelier than passing
the hardest one, so no check's confidence is corrected for their number (an intersection-union test: Berger,
Technometrics 1982;24:295-300). That holds for the organs too: a challenger that lost the margin or more on
some organ is let through with a chance of at most ``1 - organ_confidence``, however many organs are judged.
The price is paid in power: each judged organ is one more way to be refused.

``gain`` and ``organs`` have bounds, from the paired bootstrap over patients. The others are guards on the
figure as it was measured, with a margin from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sonoloop.jobs.config import Strategy
from sonoloop.jobs.evaluating.figures import calibration_error, edits_per_case, macro_f1
from sonoloop.jobs.evaluating.outcomes import CaseOutcome
from sonoloop.jobs.gating.comparing import Change, cases_needed, change
from sonoloop.jobs.gating.config import GateConfig, Measure
from sonoloop.jobs.gating.evidence import Evidence
from sonoloop.model.calibration import MIN_VALUES

Name = Literal[
    "same cases",
    "never trained on",
    "enough cases",
    "gain",
    "edits",
    "organs",
    "usable drafts",
    "calibration",
    "experts",
    "speed",
]
Verdict = Literal["passed", "failed", "not measured"]
BY_LOT: Strategy = "random"


class Check(BaseModel):
    """One thing that the gate looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Name
    passed: bool
    measured: bool = True
    sentence: str
    figures: dict[str, float | None] = {}

    @property
    def verdict(self) -> Verdict:
        """In a word; what could not be measured may have passed all the same."""
        return "not measured" if not self.measured else "passed" if self.passed else "failed"


def judge(evidence: Evidence, gate: GateConfig) -> tuple[Check, ...]:
    """All checks; where the two evaluations cannot be compared, only those that say so."""
    ground = (same_cases(evidence), never_trained_on(evidence))
    if not all(check.passed for check in ground):
        return ground
    gain = change(evidence.champion, evidence.challenger, macro_f1, confidence=gate.confidence)
    return (
        *ground,
        enough_cases(evidence, gain, gate),
        overall_gain(gain, gate),
        edits(evidence, gate),
        organs(evidence, gate),
        usable_drafts(evidence, gate),
        calibration(evidence, gate),
        experts(evidence, gate),
        speed(evidence, gate),
    )


def same_cases(evidence: Evidence) -> Check:
    """Both models drafted exactly the held-out cases, with the same prompt."""
    old, new = ({o.case_id for o in side} for side in (evidence.champion, evidence.challenger))
    held_out = evidence.held_out
    prompts = {o.prompt_version for o in (*evidence.champion, *evidence.challenger)}
    if not old == new == held_out:
        sentence = (
            f"the evaluations stand on other cases: {len(held_out)} are held out and new to both, the "
            f"champion was measured on {len(old & held_out)} of them and {len(old - held_out)} others, the "
            f"challenger on {len(new & held_out)} and {len(new - held_out)} others; "
            "run `sonoloop evaluate` again"
        )
    elif len(prompts) > 1:
        sentence = (
            f"the evaluations stand on other prompts ({', '.join(sorted(prompts))}); run `sonoloop evaluate` "
            "again"
        )
    else:
        sentence = f"both models drafted the same {len(new)} held-out cases with the same prompt"
        return Check(name="same cases", passed=True, sentence=sentence)
    return Check(name="same cases", passed=False, sentence=sentence)


def never_trained_on(evidence: Evidence) -> Check:
    """No training that led to either model saw a patient or a picture of the held-out cases."""
    measured = {outcome.case_id for outcome in (*evidence.champion, *evidence.challenger)}
    trained = [
        f"{version} learned from patients or pictures of {len(cases & measured)} of them, "
        f"{min(cases & measured)} among them"
        for version, cases in sorted(evidence.seen.items())
        if cases & measured
    ]
    if trained:
        sentence = f"{'; '.join(trained)}: such cases prove nothing; run `sonoloop evaluate` again"
        return Check(name="never trained on", passed=False, sentence=sentence)
    sentence = (
        f"trainings behind the two models: {len(evidence.seen)}; none saw a patient or picture of these"
    )
    if left_out := frozenset().union(*evidence.seen.values()):
        sentence += f" ({len(left_out)} more held-out cases are left out, one of them did)"
    return Check(name="never trained on", passed=True, sentence=sentence)


def enough_cases(evidence: Evidence, gain: Change, gate: GateConfig) -> Check:
    """As many held-out cases as are asked for, of more than one patient."""
    num_cases, num_patients = gain.num_cases, len(set(evidence.patients))
    needed = cases_needed(gain, above=gate.min_gain, confidence=gate.confidence, power=gate.power)
    figures = {"cases": float(num_cases), "patients": float(num_patients), "needed for the gain": needed}
    sentence = f"{num_cases} held-out cases of {num_patients} patients{_chosen(evidence.chosen_by)}"
    if passed := num_cases >= gate.min_cases and num_patients > 1:
        return Check(name="enough cases", passed=passed, sentence=sentence, figures=figures)
    least = max(gate.min_cases - num_cases, 1)
    sentence += f"; gate.min_cases asks for {gate.min_cases} of at least 2: {least} more are needed"
    if needed is not None and needed > num_cases + least:
        sentence += f", and about {needed - num_cases} more to show a gain as large as the measured one"
    return Check(name="enough cases", passed=False, sentence=sentence, figures=figures)


def _chosen(chosen_by: Mapping[str, int]) -> str:
    """What kind of case the figures tell of: those that a champion was unsure of are not the archive's."""
    if not chosen_by:
        return ""
    counts = ", ".join(f"{strategy} {num}" for strategy, num in chosen_by.items())
    by_lot = "" if BY_LOT in chosen_by else "; none by lot, so they tell of such cases, not of the archive"
    return f" (chosen to be read: {counts}{by_lot})"


def overall_gain(gain: Change, gate: GateConfig) -> Check:
    """The lower bound of the gain in entity macro-F1 lies above what is asked."""
    lower = gain.lower_bound
    passed = lower is not None and lower > gate.min_gain
    sentence = f"entity macro-F1 {_moved(gain)} on {gain.num_cases} held-out cases"
    if lower is not None:
        sentence += f", with {gate.confidence:.0%} confidence above {lower:+.3f}"
    if not passed:
        sentence += f"; a rise above {gate.min_gain:g} is asked"
        needed = cases_needed(gain, above=gate.min_gain, confidence=gate.confidence, power=gate.power)
        if needed is not None:
            sentence += f": a gain of this size shows on about {needed} cases, {needed - gain.num_cases} more"
    return Check(name="gain", passed=passed, sentence=sentence, figures=_figures(gain))


def edits(evidence: Evidence, gate: GateConfig) -> Check:
    """Readers have no more to correct than before."""
    found = change(evidence.champion, evidence.challenger, edits_per_case)
    assert found.difference is not None, "every case has its edits"
    sentence = f"edits per case {_moved(found, digits=2)}"
    return _rise("edits", found.difference, gate.max_edits_rise, sentence, _figures(found))


def organs(evidence: Evidence, gate: GateConfig) -> Check:
    """On every organ with enough cases, the lower bound of the change lies above minus the margin."""
    names = sorted({outcome.organ or "unknown" for outcome in evidence.challenger})
    figures: dict[str, float | None] = {}
    lost: list[str] = []
    kept: list[str] = []
    few: list[str] = []
    for organ in names:
        old, new = (_of(side, organ) for side in (evidence.champion, evidence.challenger))
        if len(new) < gate.min_organ_cases:
            few.append(f"{organ} ({len(new)})")
            continue
        found = change(old, new, macro_f1, confidence=gate.organ_confidence)
        figures |= {f"{organ}: {name}": value for name, value in _figures(found).items()}
        is_kept = found.lower_bound is not None and found.lower_bound > -gate.organ_margin
        (kept if is_kept else lost).append(_organ_sentence(organ, found, gate, is_kept=is_kept))
    if few:
        kept.append(
            f"too few cases to be judged by themselves (under {gate.min_organ_cases}): {', '.join(few)}"
        )
    return Check(name="organs", passed=not lost, sentence="; ".join(lost or kept), figures=figures)


def usable_drafts(evidence: Evidence, gate: GateConfig) -> Check:
    """No more cases than before are left without a draft, or with a part of the report empty."""
    old, new = (sum(not o.is_usable for o in side) for side in (evidence.champion, evidence.challenger))
    sentence = f"cases without a valid and complete draft {old} -> {new}"
    figures: dict[str, float | None] = {"champion": float(old), "challenger": float(new)}
    return _rise("usable drafts", new - old, gate.max_unusable_rise, sentence, figures)


def calibration(evidence: Evidence, gate: GateConfig) -> Check:
    """What drafts say of how sure they are is not much less true than before."""
    sides = (evidence.champion, evidence.challenger)
    nums = [sum(len(outcome.judged) for outcome in side) for side in sides]
    if min(nums) < MIN_VALUES:
        found = f"{nums[0]} and {nums[1]} drafted values with a probability, {MIN_VALUES} each are the least"
        if min(nums):
            needed = ceil(MIN_VALUES / min(nums) * len(evidence.challenger))
            found += f": about {needed - len(evidence.challenger)} more held-out cases"
        return _unmeasured("calibration", found, gate)
    error = change(evidence.champion, evidence.challenger, calibration_error)
    assert error.difference is not None, "there are values"
    sentence = f"calibration error of {nums[1]} drafted values {_moved(error)}"
    return _rise("calibration", error.difference, gate.max_ece_rise, sentence, _figures(error))


def experts(evidence: Evidence, gate: GateConfig) -> Check:
    """No expert died in the training."""
    share = evidence.expert_share
    if share is None:
        return _unmeasured("experts", "the challenger's lineage says nothing of its experts' use", gate)
    passed = share >= gate.min_expert_share
    sentence = f"the least used expert got {share:.1%} of an even share of the tokens"
    if not passed:
        sentence += f", {gate.min_expert_share:.1%} is the least; train with a higher router_aux_loss_coef"
    return Check(name="experts", passed=passed, sentence=sentence, figures={"least used": share})


def speed(evidence: Evidence, gate: GateConfig) -> Check:
    """A case takes not much longer than before, by the runs that drafted: other machines, other times."""
    old, new = (_mean_seconds(side) for side in (evidence.champion, evidence.challenger))
    if not old or new is None:
        return _unmeasured("speed", "the runs that drafted do not say how long a case took", gate)
    passed = new <= gate.max_slowdown * old
    sentence = f"seconds of a model actor per case {old:.3g} -> {new:.3g}, {new / old:.2f} times"
    if not passed:
        sentence += f"; at most {gate.max_slowdown:g} times is allowed"
    figures: dict[str, float | None] = {"champion": old, "challenger": new, "ratio": new / old}
    return Check(name="speed", passed=passed, sentence=sentence, figures=figures)


def _rise(name: Name, rise: float, allowed: float, sentence: str, figures: dict[str, float | None]) -> Check:
    """A guard on a figure that may rise by so much."""
    passed = rise <= allowed
    if not passed:
        sentence += f"; a rise of at most {allowed:g} is allowed"
    return Check(name=name, passed=passed, sentence=sentence, figures=figures)


def _unmeasured(name: Measure, found: str, gate: GateConfig) -> Check:
    passed = name in gate.may_be_unmeasured
    sentence = found
    if not passed:
        sentence += f'; what is not measured passes only with gate.may_be_unmeasured = ["{name}"]'
    return Check(name=name, passed=passed, measured=False, sentence=sentence)


def _organ_sentence(organ: str, found: Change, gate: GateConfig, *, is_kept: bool) -> str:
    sentence = f"{organ}: entity macro-F1 {_moved(found)} on {found.num_cases} cases"
    if found.lower_bound is not None:
        sentence += f", with {gate.organ_confidence:.0%} confidence above {found.lower_bound:+.3f}"
    if is_kept:
        return sentence
    sentence += f"; a loss of {gate.organ_margin:g} must be ruled out"
    wanted = {"confidence": gate.organ_confidence, "power": gate.power}
    needed = cases_needed(found, above=-gate.organ_margin, **wanted)
    return sentence + (f", which takes about {needed} cases of the organ" if needed else "")


def _of(side: tuple[CaseOutcome, ...], organ: str) -> list[CaseOutcome]:
    return [outcome for outcome in side if (outcome.organ or "unknown") == organ]


def _mean_seconds(side: tuple[CaseOutcome, ...]) -> float | None:
    known = [outcome.seconds for outcome in side if outcome.seconds is not None]
    return sum(known) / len(known) if known else None


def _moved(found: Change, *, digits: int = 3) -> str:
    texts: Callable[[float | None], str] = lambda v: "none" if v is None else f"{v:.{digits}f}"  # noqa: E731
    return f"{texts(found.champion)} -> {texts(found.challenger)}"


def _figures(found: Change) -> dict[str, float | None]:
    return found.model_dump()
