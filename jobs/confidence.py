"""`case_confidence` of a whole table of drafts at once: status looks at every draft of a workspace."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sonoloop.model.calibration import Calibrator
from sonoloop.model.scaling import Scaling

Array = NDArray[np.float64]


def case_confidences(drafts: pa.Table, calibrator: Calibrator | None) -> Array:
    """The confidence of each draft that has one, 0..1, float64.

    Args:
        drafts: Rows with ``confidence, value_probabilities, entities``, none of them rejected.
        calibrator: Of their model and prompt version.
    """
    values = drafts["value_probabilities"].combine_chunks()
    if not len(values):
        return np.empty(0)
    starts = np.asarray(values.offsets)
    nums = np.diff(starts)
    each = values.items.to_numpy(zero_copy_only=False)[starts[0] : starts[-1]]
    if calibrator is not None:
        each = _calibrated(each, np.repeat(_organs(drafts), nums), calibrator)
    sums = np.diff(np.concatenate([[0.0], each.cumsum()])[starts - starts[0]])
    written = drafts["confidence"].to_numpy()
    found = np.where(nums > 0, sums / np.maximum(nums, 1), written)  # no choice: as it was written
    known: Array = found[~np.isnan(found)]
    return known


def _organs(drafts: pa.Table) -> NDArray[np.str_]:
    return np.array([json.loads(text)["organ"] if text else "" for text in drafts["entities"].to_pylist()])


def _calibrated(probabilities: Array, organs: NDArray[np.str_], calibrator: Calibrator) -> Array:
    scaled = np.empty_like(probabilities)
    scalings: dict[str, Scaling] = dict(calibrator.organs.items())
    for organ in np.unique(organs):
        own = organs == organ
        scaled[own] = scalings.get(organ, calibrator.pooled).each(probabilities[own])
    return scaled
