"""Calibrators are fitted on held-out reviews by `evaluate`; `push`, `status` and serve read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.model.calibration import CalibrationFigures, fit, judged_values, measure, write_calibrator
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store


def calibrate(
    workspace: Store,
    model_version: str,
    prompt_version: str,
    *,
    snapshot: str,
    drafts: Mapping[str, DraftRecord],
    rows: Sequence[SnapshotRow],
) -> CalibrationFigures:
    """Measure the calibration error on held-out reviews and store a calibrator fitted on all of them.

    Where too few values can be judged, the figures say so and a calibrator from before stays.

    Args:
        workspace: Where models lie.
        model_version: Whose drafts they are.
        prompt_version: Of the drafts.
        snapshot: Where the rows come from.
        drafts: By case id, of that model and prompt version.
        rows: Reviews that no training saw.
    """
    values = []
    for row in rows:
        draft, reference = drafts.get(row.case_id), row.parsed_entities()
        if draft is not None and reference is not None:
            values += judged_values(draft, reference, group=row.patient_key)
    figures = measure(values)
    if figures.reason is None:
        calibrator = fit(
            values, model_version=model_version, prompt_version=prompt_version, snapshot=snapshot
        )
        write_calibrator(workspace, calibrator)
    return figures
