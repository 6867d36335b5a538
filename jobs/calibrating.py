"""Calibrators in the workspace: fitted on held-out reviews by `evaluate`, used by `push` and `status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.model.calibration import CalibrationFigures, Calibrator, fit, judged_values, measure
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store

_FILE = "calibration.json"


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
        workspace.write_bytes(calibrator.model_dump_json(indent=2).encode(), *_place(model_version))
    return figures


def read_calibrator(workspace: Store, model_version: str, prompt_version: str) -> Calibrator | None:
    """The calibrator of a model's drafts; ``None`` where there is none for this prompt version.

    Raises:
        StorageError: the file is not one of this version of sonoloop.
    """
    try:
        data = workspace.read_bytes(*_place(model_version))
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


def _place(model_version: str) -> tuple[str, str, str, str]:
    name, _, version = model_version.partition("/")
    return ("models", name, version, _FILE)
