"""``sonoloop status``: counts of every room."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sonoloop.jobs.config import Config
from sonoloop.jobs.runs import start_run
from sonoloop.jobs.status import run_status
from sonoloop.model.calibration import Calibrator
from sonoloop.model.scaling import Scaling
from sonoloop.platform import registry
from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import CaseRecord, DraftRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.workspace import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_an_empty_workspace_counts_nothing(tmp_path: Path) -> None:
    summary = run_status(Config(workspace=str(tmp_path), archive="a"))
    assert (summary.objects, summary.cases, summary.reviews, summary.last_run) == (0, 0, 0, None)
    assert set(summary.aliases.values()) == {None}


def test_a_workspace_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        run_status(Config(workspace=str(tmp_path / "none"), archive="a"))


def test_each_room_is_counted_by_what_a_person_asks_about(tmp_path: Path) -> None:
    config, workspace = Config(workspace=str(tmp_path), archive="a"), Store(str(tmp_path))
    common = {"etag": "e", "size_bytes": 1, "indexed_at": NOW}
    instances = [
        InstanceRecord.model_validate({"instance_id": "1", "uri": "1", "status": "indexed", **common}),
        InstanceRecord.model_validate(
            {"instance_id": "2", "uri": "2", "status": "rejected", "reason": "truncated", **common}
        ),
        InstanceRecord.model_validate({"instance_id": "3", "uri": "3", "status": "gone", **common}),
    ]
    frames = [
        FrameRecord.model_validate(
            {
                "instance_id": "1",
                "case_id": "a",
                "status": "rejected",
                "reason": "phi-suspected",
                "rules_version": "1",
                "prepared_at": NOW,
            }
        )
    ]
    cases = [
        CaseRecord.model_validate(
            {
                "case_id": name,
                "patient_key": "p",
                "organ_hint": organ,
                "scanner": None,
                "images": (),
                "withdrawn": name == "c",
                "indexed_at": NOW,
            }
        )
        for name, organ in (("a", "liver"), ("b", None), ("c", "liver"))
    ]
    keys = {"run_id": "r", "model_version": "m/1", "prompt_version": "p", "config_hash": "h"}
    drafts = [
        DraftRecord.model_validate({"case_id": "a", "status": "draft", **keys}),
        DraftRecord.model_validate({"case_id": "b", "status": "rejected", "reason": "image-missing", **keys}),
    ]
    workspace.write_table(InstanceRecord.table(instances), "instances", "0.parquet")
    workspace.write_table(FrameRecord.table(frames), "frames", "0.parquet")
    workspace.write_table(CaseRecord.table(cases), "cases", "0.parquet")
    workspace.write_table(DraftRecord.table(drafts), "drafts", "r", "0.parquet")
    registry.set_aliases(workspace, config.model.name, {"champion": "m/1"}, expected=Aliases())
    start_run(workspace, "index", run_id="done", key="k", config=config).finished(workspace, {})
    start_run(workspace, "annotate", run_id="half", key="k", config=config)

    summary = run_status(config)
    assert (summary.objects, summary.objects_rejected) == (
        2,
        {"truncated": 1, "phi-suspected": 1},
    )
    assert (summary.cases, summary.cases_by_organ) == (2, {"liver": 1, "unknown": 1})
    assert (summary.drafts_by_model, summary.cases_rejected) == ({"m/1": 1}, {"image-missing": 1})
    assert summary.confidence == {"m/1@p": "none, not calibrated"}
    assert summary.aliases["champion"] == "m/1"
    assert (summary.runs_unfinished, summary.last_run) == (["half"], "half")


def test_the_confidence_of_each_models_drafts_says_what_calibrated_it(tmp_path: Path) -> None:
    workspace, flat = Store(str(tmp_path)), Scaling(temperature=100.0, num_values=60)
    drafts = [
        DraftRecord.model_validate(
            {
                "case_id": case_id,
                "run_id": "r",
                "model_version": model,
                "prompt_version": "p",
                "config_hash": "h",
                "status": "draft",
                "entities": '{"organ":"liver","parenchyma":"normal","lesion":"absent"}',
                "value_probabilities": {"parenchyma": 0.75, "lesion": 0.85},
            }
        )
        for case_id in "ab"
        for model in ("m/1", "m/2")
    ]
    workspace.write_table(DraftRecord.table(drafts), "drafts", "r", "0.parquet")
    calibrator = Calibrator(model_version="m/2", prompt_version="p", snapshot="s", pooled=flat, organs={})
    workspace.write_bytes(calibrator.model_dump_json().encode(), "models", "m/2", "calibration.json")
    assert run_status(Config(workspace=str(tmp_path), archive="a")).confidence == {
        "m/1@p": "0.800, not calibrated",
        "m/2@p": "0.504, calibrated on 60 values of snapshot s",
    }
