"""``sonoloop lineage``: of a model back to its reviews, forward to its drafts; of a case, who learned it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pushable import case
from rich.console import Console
from safetensors.numpy import save_file
from said import said, write_said

from sonoloop.jobs.config import Config
from sonoloop.jobs.lineage import lineage, run_lineage
from sonoloop.jobs.runs import start_run
from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.jobs.tracing.cases import CaseLineage
from sonoloop.jobs.tracing.models import ModelLineage
from sonoloop.jobs.tracing.tree import as_tree
from sonoloop.platform import registry
from sonoloop.platform.archive.rows import FrameRecord
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.records import CaseImage, DraftRecord, ReviewRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, FRAMES, write_sorted
from sonoloop.platform.tasks import TaskRecord, project_key, write_tasks
from sonoloop.platform.workspace import Store

NAME = "echovlm-nano"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CASE, OTHER = "aaaa1111", "bbbb2222"
WORDS = "a sentence about a patient"


@pytest.fixture
def project(config: Config) -> str:
    return project_key(config.labelstudio.url, 5)


def published(workspace: Store, tmp_path: Path, value: float, **lineage: str) -> str:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": np.full(3, value, np.float32)}, folder / "model.safetensors")
    return registry.publish(workspace, folder, NAME, lineage=lineage)


def draft(case_id: str, version: str, **more: object) -> DraftRecord:
    values = {
        "case_id": case_id,
        "run_id": "annotate-1",
        "model_version": version,
        "prompt_version": "p1",
        "config_hash": "h",
        "status": "draft",
        "findings": WORDS,
        "entities": '{"organ":"liver","parenchyma":"normal","lesion":"absent"}',
        **more,
    }
    return DraftRecord.model_validate(values)


@pytest.fixture
def loop(config: Config, workspace: Store, tmp_path: Path, project: str) -> tuple[str, str, str]:
    """Base, its child and its grandchild, with all that happened: two cases, drafts, tasks, reviews."""
    image = CaseImage(image_key="images/aa/x.png", instance_id="i1", frame_index=0, width=9, height=9)
    cases = [case(CASE).model_copy(update={"images": (image,)}), case(OTHER)]
    write_sorted(workspace, CASES, cases, "0.parquet")
    frame = {"case_id": CASE, "rules_version": "1", "prepared_at": NOW}
    frames = [
        FrameRecord.model_validate({"instance_id": "i1", "status": "written", **frame}),
        FrameRecord.model_validate(
            {"instance_id": "i2", "status": "rejected", "reason": "no-pixels", **frame}
        ),
    ]
    write_sorted(workspace, FRAMES, frames, "0.parquet")
    base = published(workspace, tmp_path, 0, base="built in")
    drafts = [draft(CASE, base), draft(OTHER, base, status="rejected", reason="timed-out")]
    write_sorted(workspace, DRAFTS, drafts, "annotate-1", "0.parquet")
    task = {"project": project, "purpose": "draft", "strategy": "random", "num_readers": 1, "state": "sent"}
    tasks = [{"case_id": CASE, "task_id": 17, "model_version": base}, {"case_id": OTHER, "task_id": 18}]
    defaults = {"model_version": None, "written_at": NOW, **task}
    write_tasks(workspace, [TaskRecord.model_validate({**defaults, **one}) for one in tasks])
    reviews = [
        said(CASE, "reader-1", model_version=base, project=project, task_id=17, findings=WORDS),
        said(CASE, "reader-2", hours=1, model_version=base, deleted=True),
        said(OTHER, "reader-1", hours=2, escape="cannot-judge"),
    ]
    write_said(workspace, *reviews)
    frozen(workspace, "snap", [(reviews[0], "train"), (reviews[2], "test")])
    start_run(workspace, "finetune", run_id="finetune-1", key="k", config=config).finished(workspace, {})
    child = published(workspace, tmp_path, 1, base=base, snapshot="snap", run="finetune-1")
    grandchild = published(workspace, tmp_path, 2, base=child, snapshot="snap")
    decision = {"promoted": True, "reason": "better", "decided_at": "2026-02-01"}
    workspace.write_bytes(json.dumps(decision).encode(), "models", child, "decision.json")
    workspace.write_bytes(b"{}", "models", child, "evaluations", "snap.json")
    seen = registry.set_aliases(workspace, NAME, {"champion": base}, expected=Aliases(), by="init")
    changes = {"champion": child, "previous": base}
    registry.set_aliases(workspace, NAME, changes, expected=seen, by="promote")  # type: ignore[arg-type]
    return base, child, grandchild


def frozen(workspace: Store, name: str, rows: list[tuple[ReviewRecord, str]]) -> None:
    table = SnapshotRow.table(
        [SnapshotRow.model_validate({**row.row(), "patient_key": "0", "split": split}) for row, split in rows]
    )
    workspace.write_table(table, "training", name, "reviews.parquet")


def model(config: Config, what: str) -> ModelLineage:
    found = run_lineage(config, what)
    assert isinstance(found, ModelLineage)
    return found


def of_case(config: Config, what: str) -> CaseLineage:
    found = run_lineage(config, what)
    assert isinstance(found, CaseLineage)
    return found


def test_a_model_tells_what_it_came_from(config: Config, loop: tuple[str, str, str]) -> None:
    base, child, grandchild = loop
    told = model(config, grandchild)
    assert [one.model_version for one in told.ancestors] == [child, base]
    assert told.beginning == "built in"
    told = model(config, "champion")
    assert (told.model_version, told.aliases) == (child, ("champion",))
    assert told.run is not None
    assert (told.run.run_id, told.run.state) == ("finetune-1", "finished")
    assert told.learned is not None
    assert told.learned.reviews == {"train": 1, "test": 1}
    assert told.learned.readers == {"reader-1": 1}
    assert told.learned.began_from == {base: 1}
    assert told.decision is not None
    assert told.decision.promoted
    assert told.evaluations == ("snap",)


def test_a_model_tells_what_came_of_it(config: Config, loop: tuple[str, str, str], project: str) -> None:
    base, child, grandchild = loop
    told = model(config, "previous")
    assert told.model_version == base
    (written,) = told.drafts
    assert (written.run_id, written.drafted, written.rejected) == ("annotate-1", 1, 1)
    assert told.tasks == {project: 1}
    assert told.reviews == 1  # the other one is deleted
    assert [(d.model_version, d.is_base, d.num_reviews) for d in told.descendants] == [
        (child, True, 1),
        (grandchild, False, 1),
    ]
    assert [(span.alias, span.by, span.until is None) for span in told.times] == [
        ("champion", "init", False),
        ("previous", "promote", True),
    ]


def test_a_retired_version_is_told_as_one(
    config: Config, workspace: Store, loop: tuple[str, str, str], tmp_path: Path
) -> None:
    before = model(config, loop[2])
    registry.retire(workspace, loop[2], reason="a test")
    after = model(config, loop[2])
    assert after.retired is not None
    assert after.model_copy(update={"retired": None}) == before
    youngest = published(workspace, tmp_path, 3, base=loop[2])
    assert model(config, youngest).ancestors[0].retired


def test_a_case_tells_what_it_is_made_of_and_who_wrote_said_and_learned(
    config: Config, loop: tuple[str, str, str], project: str
) -> None:
    base, child, grandchild = loop
    told = of_case(config, CASE)
    assert (told.images, told.instances, told.instances_rejected) == (1, 2, 1)
    assert [(d.model_version, d.run_id, d.status) for d in told.drafts] == [(base, "annotate-1", "draft")]
    assert [(t.project, t.task_id, t.model_version) for t in told.tasks] == [(project, 17, base)]
    assert [(r.reader, r.began_from, r.deleted) for r in told.reviews] == [
        ("reader-1", base, False),
        ("reader-2", base, True),
    ]
    assert [(s.snapshot, s.split, s.models) for s in told.snapshots] == [
        ("snap", "train", (child, grandchild))
    ]
    assert of_case(config, OTHER).snapshots[0].split == "test"


@pytest.mark.parametrize("word", ["17", "5:17", "{project}:17"])
def test_a_task_is_its_case(config: Config, loop: tuple[str, str, str], project: str, word: str) -> None:
    told = of_case(config, word.format(project=project))
    assert (told.case_id, told.asked_by_task) == (CASE, f"{project}:17")
    assert told == of_case(config, CASE).model_copy(update={"asked_by_task": f"{project}:17"})


def test_a_task_number_of_several_projects_asks_which(
    config: Config, workspace: Store, loop: tuple[str, str, str], project: str
) -> None:
    row = {"project": "0ther", "purpose": "draft", "strategy": "x", "num_readers": 1, "state": "sent"}
    row |= {"case_id": OTHER, "task_id": 17, "model_version": None, "written_at": NOW}
    write_tasks(workspace, [TaskRecord.model_validate(row)])
    with pytest.raises(ConfigError, match=r"2 projects.*(0ther:17)"):
        run_lineage(config, "17")
    assert of_case(config, "0ther:17").case_id == OTHER


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("champoin", "near it: champion"),
        ("aaaa1112", f"near it: {CASE}"),
        ("bbbb", f"near it: {OTHER}"),
        ("99", "sonoloop status"),
        ("6:17", "sonoloop status"),
        ("challenger", "no challenger"),
        ("../aliases.json", "nothing is known"),
        ("", "nothing is known"),
    ],
)
def test_an_unknown_word_gets_what_comes_near(
    config: Config, loop: tuple[str, str, str], word: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        run_lineage(config, word)


def test_a_version_misspelt_by_a_letter_is_hinted_at(config: Config, loop: tuple[str, str, str]) -> None:
    for wrong in (loop[0][:-1] + "x", loop[0].partition("/")[2][:-1] + "x"):
        with pytest.raises(ConfigError, match=f"near it: .*{loop[0]}"):
            run_lineage(config, wrong)


@pytest.mark.parametrize("what", ["champion", "previous", CASE, "17"])
def test_no_word_of_a_report_is_told(config: Config, loop: tuple[str, str, str], what: str) -> None:
    told = run_lineage(config, what)
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(as_tree(told, what))
    for text in (told.model_dump_json(), console.export_text()):
        assert WORDS not in text
        assert "normal" not in text


def test_the_command_prints_a_tree_or_json(
    config: Config, loop: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sonoloop.toml"
    file.write_text(f'workspace = "{config.workspace}"\narchive = "a"\n')
    lineage("champion", str(file), json=True)
    assert json.loads(capsys.readouterr().out)["model_version"] == loop[1]
    lineage(CASE, str(file))
    told = capsys.readouterr().out
    assert told.startswith(f"lineage of {CASE}")
    assert f"snap, train: learned by {loop[1]}, {loop[2]}" in told
