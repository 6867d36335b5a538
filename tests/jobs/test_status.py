"""``sonoloop status``: counts of every room."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from said import said, write_said

from sonoloop.jobs.annotating.figures import Figures, RunProgress
from sonoloop.jobs.confidence import case_confidences
from sonoloop.jobs.config import Config
from sonoloop.jobs.runs import start_run
from sonoloop.jobs.status import run_status, status, status_of_run
from sonoloop.model.calibration import Calibrator, case_confidence
from sonoloop.model.scaling import Scaling
from sonoloop.platform import registry
from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.errors import ConfigError, StorageError
from sonoloop.platform.metrics import INVENTORY
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


def test_the_confidence_of_a_table_is_that_of_its_drafts() -> None:
    calibrator = Calibrator(
        model_version="m/1",
        prompt_version="p",
        snapshot="s",
        pooled=Scaling(temperature=2.0),
        organs={"liver": Scaling(temperature=3.0, bias=0.5)},
    )
    liver = '{"organ":"liver","parenchyma":"normal","lesion":"absent"}'
    thyroid = '{"organ":"thyroid","lesion":"absent"}'
    drafts = [
        a_draft(case_id="a", entities=liver, value_probabilities={"x": 0.75, "y": 0.9}),
        a_draft(case_id="b", entities=thyroid, value_probabilities={"x": 0.6}),
        a_draft(case_id="c", entities=thyroid, confidence=0.3),
        a_draft(case_id="d"),
        a_draft(case_id="e", entities=thyroid, value_probabilities={"x": 1.0, "y": 0.0, "z": 0.5}),
    ]
    for used in (calibrator, None):
        expected = [case_confidence(draft, used) for draft in drafts if draft.case_id != "d"]
        table = DraftRecord.table(drafts)
        for start in (0, 1):
            found = case_confidences(table.slice(start), used)
            np.testing.assert_allclose(found, np.array(expected[start:], dtype=float), rtol=1e-12)
    assert len(case_confidences(DraftRecord.table([]), calibrator)) == 0


def a_draft(**values: object) -> DraftRecord:
    """A draft of one model."""
    keys = {"run_id": "r", "model_version": "m/1", "prompt_version": "p", "config_hash": "h"}
    return DraftRecord.model_validate({"status": "draft", **keys, **values})


@pytest.fixture
def runs(tmp_path: Path) -> Config:
    """A workspace with an annotate run under way, one that went silent, one that has just begun."""
    config = Config(workspace=str(tmp_path), archive="a")
    workspace, moment = config.open_workspace(), datetime.now(UTC)
    for run_id, age_s in (("silent", 600), ("under-way", 5)):
        start_run(workspace, "annotate", run_id=run_id, key="k", config=config)
        RunProgress(
            run_id=run_id,
            model_version="m/1",
            prompt_version="p",
            updated_at=moment - timedelta(seconds=age_s),
            figures=Figures(cases=10, done=4, actors=2, actor_utilisation=0.97, recent_cases_per_s=2.0),
            cost=1.5,
            currency="EUR",
        ).write(workspace)
    start_run(workspace, "annotate", run_id="begun", key="k", config=config)
    start_run(workspace, "index", run_id="index", key="k", config=config)
    return config


def test_a_run_under_way_says_how_far_it_is_and_a_silent_one_since_when_it_is_silent(runs: Config) -> None:
    told = run_status(runs).runs_progress
    assert told["under-way"] == "4/10, 2/s, 2 actors 97% busy, 1.50 EUR"
    assert told["begun"] == "no progress written yet"
    assert re.fullmatch(
        r"no sign of life since [\d: -]+ UTC \(10 min\); then 4/10; the same command goes on with it",
        told["silent"],
    )
    assert "index" not in told


def test_one_run_is_shown_in_full(runs: Config) -> None:
    states = {name: status_of_run(runs, name) for name in ("under-way", "silent", "begun", "index")}
    assert [status.state for status in states.values()] == [
        "under way",
        "no sign of life",
        "under way",
        "under way",
    ]
    assert isinstance(states["silent"].figures, Figures)
    assert states["silent"].figures.done == 4
    assert states["begun"].figures is None


def test_a_run_that_is_not_there_is_told(runs: Config) -> None:
    with pytest.raises(ConfigError, match="has no run nowhere"):
        status_of_run(runs, "nowhere")


def test_status_for_prometheus_gives_the_loops_gauges_by_the_names_of_the_inventory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Store(str(tmp_path / "w"))
    Path(workspace.root).mkdir()
    write_said(workspace, said("a", model_version="m/1", origins={"findings": "manual"}, lead_time_s=30.0))
    registry.set_aliases(workspace, "echovlm-nano", {"champion": "echovlm-nano/1"}, expected=Aliases())
    file = tmp_path / "c.toml"
    file.write_text(
        f'workspace = "{workspace.root}"\narchive = "{tmp_path}/a"\n[model]\nname = "echovlm-nano"\n'
    )
    status(str(file), prometheus=True)
    families = {f.name: f for f in text_string_to_metric_families(capsys.readouterr().out)}
    assert families.keys() <= {one.name for one in INVENTORY if one.room == "loop"}
    (edits,) = families["sonoloop_loop_case_edits"].samples
    assert (edits.labels, edits.value) == ({"model_version": "m/1"}, 1)
    (named,) = families["sonoloop_loop_model_info"].samples
    assert named.labels == {"alias": "champion", "model_version": "echovlm-nano/1"}
    assert families["sonoloop_loop_reviewed_cases"].samples[0].value == 1
