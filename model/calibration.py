"""Calibration: from the probability a model gave a drafted value to the share of such values people keep.

A calibrator is one `Scaling` per organ, fitted on held-out reviews. How far probabilities and kept values lie
apart, before and after, is the expected calibration error. Source: Guo et al., ICML 2017, arXiv:1706.04599.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.model.scaling import Scaling, fit_scaling
from sonoloop.platform import registry
from sonoloop.platform.errors import StorageError
from sonoloop.platform.lexicon import Entities, Organ
from sonoloop.platform.records import DraftRecord, content_id
from sonoloop.platform.workspace import Store

_FILE = "calibration.json"
NUM_BINS = 15
"""Bins of the calibration error. Source: arXiv:1706.04599, section 5."""
MIN_VALUES = 50
"""Judged values below which nothing is fitted, and below which an organ takes the fit of all organs."""
NUM_FOLDS = 5


@dataclass(frozen=True, slots=True)
class JudgedValue:
    """One drafted value and whether the reference has the same.

    Attributes:
        group: What must not be torn apart when folds are made: the patient.
        organ: The draft's organ.
        probability: Of the value among its admissible values, 0..1.
        kept: The reference has the same organ and the same value in that field.
    """

    group: str
    organ: Organ
    probability: float
    kept: bool


class Calibrator(BaseModel):
    """``models/<name>/<version>/calibration.json``: one scaling per organ, and one for all others."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1] = 1
    model_version: str
    prompt_version: str = Field(description="the probabilities of another prompt are other probabilities")
    snapshot: str = Field(description="whose held-out reviews it was fitted on")
    pooled: Scaling
    organs: dict[Organ, Scaling]

    def __call__(self, organ: Organ, probability: float) -> float:
        """The calibrated probability of a value drafted for this organ."""
        return self.organs.get(organ, self.pooled)(probability)


def read_calibrator(workspace: Store, model_version: str, prompt_version: str) -> Calibrator | None:
    """The calibrator of a model's drafts; ``None`` where there is none for this prompt version.

    Raises:
        StorageError: the workspace does not answer, or the file is not one of this version of sonoloop.
    """
    try:
        data = workspace.read_bytes(*registry.place_of(model_version), _FILE)
    except FileNotFoundError:
        return None
    try:
        calibrator = Calibrator.model_validate_json(data)
    except ValidationError as err:
        raise StorageError(
            f"models/{model_version}/{_FILE} is no calibrator of this version of sonoloop; remove it, or run "
            "`sonoloop evaluate` while the model is champion or challenger"
        ) from err
    return calibrator if calibrator.prompt_version == prompt_version else None


def write_calibrator(workspace: Store, calibrator: Calibrator) -> None:
    """Store it beside its model.

    Raises:
        StorageError: the workspace cannot be written.
    """
    place = (*registry.place_of(calibrator.model_version), _FILE)
    workspace.write_bytes(calibrator.model_dump_json(indent=2).encode(), *place)


class CalibrationFigures(BaseModel):
    """How far probabilities and kept values lie apart, before and after; null where too few were judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_values: int = Field(description="drafted values with a probability, on held-out cases")
    share_kept: float | None = Field(default=None, description="share of them that the reviews have too")
    ece_before: float | None = Field(default=None, description="expected calibration error as decoded")
    ece_after: float | None = Field(
        default=None, description="the same, each value scaled by a fit that saw nothing of its patient"
    )
    reason: str | None = Field(default=None, description="why there are no figures")


def judged_values(draft: DraftRecord, reference: Entities, *, group: str) -> list[JudgedValue]:
    """Compare what a draft says, where it had a choice, with a reference; empty for a rejection.

    A value about another organ than the reference's, or of a field that the reference lacks, was not kept.
    """
    if draft.status != "draft":
        return []
    entities = draft.parsed_entities()
    said, true = entities.flat(), reference.flat()
    same_organ = entities.organ == reference.organ
    return [
        JudgedValue(group, entities.organ, probability, same_organ and said[name] == true.get(name))
        for name, probability in draft.value_probabilities.items()
        if name in said
    ]


def case_confidence(draft: DraftRecord, calibrator: Calibrator | None) -> float | None:
    """How sure a draft is, 0..1: the share of its values that a reader is expected to keep.

    It is the mean of the values' probabilities, calibrated where there is a calibrator; the mean, since the
    expected share of kept values is that whatever the values have to do with each other. A draft without
    values that were a choice has the confidence it was written with.
    """
    scaled = scaled_probabilities(draft, calibrator)
    return sum(scaled.values()) / len(scaled) if scaled else draft.confidence


def scaled_probabilities(draft: DraftRecord, calibrator: Calibrator | None) -> dict[str, float]:
    """Entity field to the probability of the drafted value, 0..1, calibrated where there is a calibrator."""
    if calibrator is None:
        return dict(draft.value_probabilities)
    organ = draft.parsed_entities().organ
    return {name: calibrator(organ, p) for name, p in draft.value_probabilities.items()}


def fit(
    values: Sequence[JudgedValue], *, model_version: str, prompt_version: str, snapshot: str
) -> Calibrator:
    """A scaling for each organ with at least `MIN_VALUES` values, and one fitted on all.

    Raises:
        ValueError: no value.
    """
    by_organ: dict[Organ, list[JudgedValue]] = {}
    for value in values:
        by_organ.setdefault(value.organ, []).append(value)
    return Calibrator(
        model_version=model_version,
        prompt_version=prompt_version,
        snapshot=snapshot,
        pooled=_scaling(values),
        organs={organ: _scaling(own) for organ, own in sorted(by_organ.items()) if len(own) >= MIN_VALUES},
    )


def _scaling(values: Sequence[JudgedValue]) -> Scaling:
    return fit_scaling([value.probability for value in values], [value.kept for value in values])


def measure(values: Sequence[JudgedValue]) -> CalibrationFigures:
    """The calibration error before and after; after is cross-fitted, so no fit judges what it has seen."""
    num_groups = len({value.group for value in values})
    if len(values) < MIN_VALUES or num_groups < 2:
        return CalibrationFigures(
            num_values=len(values),
            reason=f"{len(values)} drafted values of {num_groups} held-out patients have a probability and "
            f"a review; {MIN_VALUES} of 2 patients are the least",
        )
    kept = [value.kept for value in values]
    return CalibrationFigures(
        num_values=len(values),
        share_kept=sum(kept) / len(kept),
        ece_before=calibration_error(values),
        ece_after=expected_calibration_error(cross_calibrated(values), kept),
    )


def calibration_error(values: Sequence[JudgedValue], calibrator: Calibrator | None = None) -> float:
    """`expected_calibration_error` of the values as decoded, or scaled by a calibrator that saw none of them.

    Raises:
        ValueError: no value.
    """
    scaled = [calibrator(v.organ, v.probability) if calibrator else v.probability for v in values]
    return expected_calibration_error(scaled, [value.kept for value in values])


def cross_calibrated(values: Sequence[JudgedValue], *, num_folds: int = NUM_FOLDS) -> list[float]:
    """Each value's probability, calibrated on the groups of the other folds.

    Folds depend on the groups' names only. ``num_folds`` is lowered to the number of groups.

    Raises:
        ValueError: fewer than two groups.
    """
    groups = sorted({value.group for value in values}, key=lambda group: (content_id(group), group))
    if len(groups) < 2:
        raise ValueError(f"cross-fitting needs two groups, got {len(groups)}")
    fold_of = {group: place % min(num_folds, len(groups)) for place, group in enumerate(groups)}
    calibrators = [
        fit([v for v in values if fold_of[v.group] != fold], model_version="", prompt_version="", snapshot="")
        for fold in range(min(num_folds, len(groups)))
    ]
    return [calibrators[fold_of[value.group]](value.organ, value.probability) for value in values]


def expected_calibration_error(
    probabilities: Sequence[float], kept: Sequence[bool], *, num_bins: int = NUM_BINS
) -> float:
    """Mean distance between probability and share kept over equal-width bins, weighted by their values.

    Args:
        probabilities: 0..1.
        kept: Whether each value was kept.
        num_bins: Bins of (0, 1]; a bin holds its upper edge, the first one 0 as well.

    Returns:
        0 (as sure as right) to 1.

    Raises:
        ValueError: no value, or lengths that differ.

    Source: arXiv:1706.04599, eq. 2 and 3.
    """
    if not probabilities or len(probabilities) != len(kept):
        raise ValueError(
            f"expected one verdict per probability, at least one; got {len(kept)} for {len(probabilities)}"
        )
    p, right = np.asarray(probabilities, dtype=np.float64), np.asarray(kept, dtype=np.float64)
    bins = np.clip(np.ceil(p * num_bins) - 1, 0, num_bins - 1).astype(np.int64)
    gaps = np.bincount(bins, weights=p - right, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(p))
