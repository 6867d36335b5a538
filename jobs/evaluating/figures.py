"""What the outcomes add up to: every figure with what it is made of and an interval of 95 %.

Intervals come from patients drawn anew, see `sonoloop.model.resampling`; a share of cases has Wilson's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.evaluating.outcomes import CaseOutcome
from sonoloop.model import resampling
from sonoloop.model.intervals import Estimate, estimate
from sonoloop.model.metrics import labels
from sonoloop.model.resampling import Statistic, estimates_over, mean, ratio

CONFIDENCE_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the bins of confidence; a bin holds its lower edge, the last one 1 as well."""


class Figures(BaseModel):
    """How a model's drafts of some cases stand against the reviews; null where nothing can be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_cases: int
    num_patients: int
    usable: Estimate = Field(description="share of cases with a draft that has both sections")
    entity_macro_f1: Estimate | None
    num_entity_classes: int
    edits_per_case: Estimate | None
    edited: Estimate | None = Field(description="share of the fields that must be touched")
    edit_distance: Estimate | None
    bleu_1: Estimate | None
    rouge_l: Estimate | None
    box_iou: Estimate | None = Field(description="of the reviews' boxes")
    calibration_error: Estimate | None = Field(description="of values, calibrated where possible")
    kept: Estimate | None = Field(description="share of the values with a probability that reviews keep")
    tokens_per_case: Estimate | None
    seconds_per_case: Estimate | None = Field(description="of a model actor")


class ConfidenceBin(BaseModel):
    """How right drafts are that say to be so sure."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float = Field(description="of the drafts' confidence, inside")
    high: float = Field(description="outside, but for 1")
    num_cases: int
    confidence: float = Field(description="on average")
    kept: Estimate | None = Field(description="share of the judged values that the reviews keep")
    edits_per_case: Estimate | None


class Breakdown(BaseModel):
    """All cases together, and apart by what may make a difference."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    overall: Figures
    organs: dict[str, Figures]
    scanners: dict[str, Figures]
    confidence: tuple[ConfidenceBin, ...] = Field(description="bins with a case in them")


def break_down(outcomes: Sequence[CaseOutcome]) -> Breakdown:
    """The figures of a model over its outcomes, at least one."""
    return Breakdown(
        overall=figures_of(outcomes),
        organs=_apart(outcomes, lambda outcome: outcome.organ),
        scanners=_apart(outcomes, lambda outcome: outcome.scanner),
        confidence=tuple(confidence_bins(outcomes)),
    )


def figures_of(outcomes: Sequence[CaseOutcome]) -> Figures:
    """The figures over these cases, at least one."""
    usable = estimate([float(outcome.is_usable) for outcome in outcomes])
    assert usable is not None, "there is a case"
    n = len(outcomes)
    measured = {
        "entity_macro_f1": (macro_f1(outcomes), n),
        "edits_per_case": (edits_per_case(outcomes), n),
        "edited": (ratio([o.num_edits for o in outcomes], [o.num_fields for o in outcomes]), n),
        "edit_distance": (mean([o.edit_distance for o in outcomes]), n),
        "bleu_1": (bleu_1(outcomes), n),
        "rouge_l": (mean([o.rouge_l for o in outcomes]), n),
        "box_iou": _per_item(outcomes, lambda o: o.box_ious),
        "calibration_error": (calibration_error(outcomes), sum(len(o.judged) for o in outcomes)),
        "kept": _kept(outcomes),
        "tokens_per_case": _per_item(outcomes, lambda o: _known(o.num_tokens)),
        "seconds_per_case": _per_item(outcomes, lambda o: _known(o.seconds)),
    }
    return Figures(
        num_cases=n,
        num_patients=len(set(patients_of(outcomes))),
        num_entity_classes=len(frozenset().union(*(o.wanted for o in outcomes))),
        usable=usable,
        **estimates_over(patients_of(outcomes), measured),
    )


def confidence_bins(outcomes: Sequence[CaseOutcome]) -> Iterable[ConfidenceBin]:
    """How right the drafts are by how sure they say to be; bins without a case are left out."""
    for low, high in pairwise(CONFIDENCE_EDGES):
        inside = [o for o in outcomes if o.confidence is not None and low <= o.confidence < high]
        if high == CONFIDENCE_EDGES[-1]:
            inside += [o for o in outcomes if o.confidence == high]
        if inside:
            measured = {"kept": _kept(inside), "edits_per_case": (edits_per_case(inside), len(inside))}
            yield ConfidenceBin(
                low=low,
                high=high,
                num_cases=len(inside),
                confidence=sum(o.confidence or 0 for o in inside) / len(inside),
                **estimates_over(patients_of(inside), measured),
            )


def patients_of(outcomes: Sequence[CaseOutcome]) -> list[str]:
    """The patient of each case."""
    return [outcome.patient_key for outcome in outcomes]


def macro_f1(outcomes: Sequence[CaseOutcome]) -> Statistic:
    """Entity macro-F1 as a function of how often each case counts."""
    return labels.macro_f1([o.said for o in outcomes], [o.wanted for o in outcomes])


def edits_per_case(outcomes: Sequence[CaseOutcome]) -> Statistic:
    """Mean number of fields to be touched."""
    return mean([o.num_edits for o in outcomes])


def bleu_1(outcomes: Sequence[CaseOutcome]) -> Statistic:
    """Corpus BLEU-1."""
    return resampling.bleu_1(
        [o.matched_words for o in outcomes],
        [o.said_words for o in outcomes],
        [o.wanted_words for o in outcomes],
    )


def calibration_error(outcomes: Sequence[CaseOutcome]) -> Statistic:
    """Expected calibration error of the judged values, calibrated where possible."""
    return resampling.calibration_error(
        [[value.sureness for value in o.judged] for o in outcomes],
        [[value.kept for value in o.judged] for o in outcomes],
    )


def _apart(outcomes: Sequence[CaseOutcome], key: Callable[[CaseOutcome], str | None]) -> dict[str, Figures]:
    groups: dict[str, list[CaseOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome) or "unknown", []).append(outcome)
    return {name: figures_of(own) for name, own in sorted(groups.items())}


def _kept(outcomes: Sequence[CaseOutcome]) -> tuple[Statistic, int]:
    return _per_item(outcomes, lambda o: [float(value.kept) for value in o.judged])


def _per_item(
    outcomes: Sequence[CaseOutcome], items: Callable[[CaseOutcome], Sequence[float]]
) -> tuple[Statistic, int]:
    """The mean over items of which a case has none or several, and how many there are."""
    found = [items(outcome) for outcome in outcomes]
    nums = [len(own) for own in found]
    return ratio([sum(own) for own in found], nums), sum(nums)


def _known(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)
