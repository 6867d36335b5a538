"""Calibrators in the workspace: fitted on held-out reviews, read for the prompt they belong to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sonoloop.jobs.calibrating import calibrate
from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.model.calibration import MIN_VALUES, CalibrationFigures, read_calibrator
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL, PROMPT = "nano/1", "p1"
NORMAL = '{"organ":"liver","parenchyma":"normal","lesion":"absent"}'
COARSE = '{"organ":"liver","parenchyma":"coarse","lesion":"absent"}'


def draft(case_id: str, **changes: object) -> DraftRecord:
    return DraftRecord.model_validate(
        {
            "case_id": case_id,
            "run_id": "r",
            "model_version": MODEL,
            "prompt_version": PROMPT,
            "config_hash": "h",
            "status": "draft",
            "entities": NORMAL,
            "value_probabilities": {"parenchyma": 0.99, "lesion": 0.95},
            **changes,
        }
    )


def row(case_id: str, entities: str | None, patient: str) -> SnapshotRow:
    return SnapshotRow.model_validate(
        {
            "review_id": case_id,
            "annotation_id": 1,
            "task_id": 1,
            "case_id": case_id,
            "model_version": MODEL,
            "reader": "x",
            "findings": "f",
            "impression": "i",
            "entities": entities,
            "boxes": (),
            "origins": {},
            "lead_time_s": None,
            "created_at": NOW,
            "updated_at": NOW,
            "patient_key": patient,
            "split": "test",
        }
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def run(workspace: Store, num: int, *, snapshot: str = "s", prompt: str = PROMPT) -> CalibrationFigures:
    """Every second review of ``num`` says that the parenchyma is another than drafted at 0.99."""
    names = [f"c{number:03}" for number in range(num)]
    rows = [row(name, COARSE if int(name[1:]) % 2 else NORMAL, f"p{int(name[1:]) // 2}") for name in names]
    drafts = {name: draft(name, prompt_version=prompt) for name in names}
    return calibrate(workspace, MODEL, prompt, snapshot=snapshot, drafts=drafts, rows=rows)


def test_sure_values_that_are_half_wrong_are_measured_and_corrected(workspace: Store) -> None:
    figures = run(workspace, 100)
    assert (figures.num_values, figures.share_kept, figures.reason) == (200, 0.75, None)
    assert figures.ece_before == pytest.approx((0.99 - 0.5 + 1 - 0.95) / 2, abs=0.25)
    assert figures.ece_after is not None
    assert figures.ece_before is not None
    assert figures.ece_after < figures.ece_before
    calibrator = read_calibrator(workspace, MODEL, PROMPT)
    assert calibrator is not None
    assert (calibrator.model_version, calibrator.prompt_version, calibrator.snapshot) == (MODEL, PROMPT, "s")
    assert calibrator.organs["liver"].num_values == calibrator.pooled.num_values == 200


def test_too_few_values_fit_nothing_and_leave_an_older_calibrator(workspace: Store) -> None:
    few = run(workspace, MIN_VALUES // 2 - 1)
    assert (few.ece_before, few.ece_after) == (None, None)
    assert few.reason is not None
    assert read_calibrator(workspace, MODEL, PROMPT) is None
    run(workspace, 100, snapshot="first")
    run(workspace, 1, snapshot="second")
    kept = read_calibrator(workspace, MODEL, PROMPT)
    assert kept is not None
    assert kept.snapshot == "first"


def test_cases_without_a_draft_a_review_of_entities_or_choices_count_for_nothing(workspace: Store) -> None:
    drafts = {
        "a": draft("a"),
        "b": draft("b", status="rejected", entities=None, value_probabilities={}),
        "c": draft("c"),
        "d": draft("d", value_probabilities={}),
    }
    rows = [row("a", NORMAL, "1"), row("b", NORMAL, "2"), row("c", None, "3"), row("d", NORMAL, "4")]
    figures = calibrate(
        workspace, MODEL, PROMPT, snapshot="s", drafts=drafts, rows=[*rows, row("e", NORMAL, "5")]
    )
    assert figures.num_values == 2


def test_a_calibrator_of_another_prompt_is_not_used(workspace: Store) -> None:
    run(workspace, 100, prompt="p1")
    assert read_calibrator(workspace, MODEL, "p1") is not None
    assert read_calibrator(workspace, MODEL, "p2") is None
    assert read_calibrator(workspace, "nano/2", "p1") is None


@pytest.mark.parametrize("text", [b"", b"{}", b"not json"])
def test_a_damaged_calibrator_says_what_to_do(workspace: Store, text: bytes) -> None:
    workspace.write_bytes(text, "models", MODEL, "calibration.json")
    with pytest.raises(StorageError, match=r"nano/1/calibration\.json .* remove it"):
        read_calibrator(workspace, MODEL, PROMPT)
