"""``sonoloop retire``: weights of old versions go, what is needed stays, and so does what tells a history."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from said import said, write_said

from sonoloop.jobs.annotating.figures import Figures, RunProgress
from sonoloop.jobs.config import Config
from sonoloop.jobs.lineage import run_lineage
from sonoloop.jobs.retire import run_retire
from sonoloop.jobs.runs import start_run
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError, ConflictError
from sonoloop.platform.records import content_id
from sonoloop.platform.registry import Aliases
from sonoloop.platform.tasks import TaskRecord, write_tasks
from sonoloop.platform.workspace import Store

NAME = "echovlm-nano"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def line(workspace: Store, tmp_path: Path) -> list[str]:
    """Eight versions, each trained from the one before; the last two are previous and champion."""
    versions: list[str] = []
    for number in range(8):
        base = versions[-1] if versions else "built in"
        versions.append(published(workspace, tmp_path, number, base))
        if number == 1:
            registry.set_aliases(workspace, NAME, {"champion": versions[1]}, expected=Aliases())
    seen = registry.read_aliases(workspace, NAME)
    changes = {"champion": versions[7], "previous": versions[6]}
    registry.set_aliases(workspace, NAME, changes, expected=seen)  # type: ignore[arg-type]
    return versions


def published(workspace: Store, tmp_path: Path, number: int, base: str) -> str:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": np.full(1000, number, np.float32)}, folder / "model.safetensors")
    return registry.publish(workspace, folder, NAME, lineage={"base": base})


def has_weights(workspace: Store, version: str) -> bool:
    return bool(registry.weights_left(workspace, version))


def files(workspace: Store) -> set[str]:
    return {info.uri.removeprefix(workspace.uri) for info in workspace.list_objects()}


def test_weights_of_old_versions_go_and_nothing_else(
    config: Config, workspace: Store, line: list[str]
) -> None:
    before, told = files(workspace), run_lineage(config, line[3])
    summary = run_retire(config, keep=3)
    gone = {f"/models/{version}/model.safetensors" for version in line[1:5]}
    marks = {f"/models/{version}/retired.json" for version in line[1:5]}
    assert files(workspace) == before - gone | marks
    assert set(summary.retired) == set(line[1:5])
    assert summary.kept == {
        line[0]: "beginning of the line",
        line[5]: "among the newest",
        line[6]: "previous",
        line[7]: "champion",
    }
    assert summary.freed_bytes == sum(summary.retired.values()) > 4 * 4000
    after = run_lineage(config, line[3])
    assert after.model_copy(update={"retired": None}).model_dump(exclude={"ancestors"}) == told.model_dump(
        exclude={"ancestors"}
    )


def test_a_retired_version_says_so_when_it_is_wanted_and_comes_back_when_published_again(
    config: Config, workspace: Store, line: list[str], tmp_path: Path
) -> None:
    registry.fetch(workspace, line[2])  # even where a copy of it lies on this machine
    run_retire(config, keep=1)
    with pytest.raises(ConfigError, match=r"retired on .*sonoloop retire --keep 1.*publish"):
        registry.fetch(workspace, line[2])
    assert published(workspace, tmp_path, 2, line[1]) == line[2]
    assert (registry.fetch(workspace, line[2]) / "model.safetensors").is_file()


def test_a_dry_run_says_the_same_and_changes_nothing(
    config: Config, workspace: Store, line: list[str]
) -> None:
    before = files(workspace)
    planned = run_retire(config, keep=2, dry_run=True)
    assert files(workspace) == before
    assert run_retire(config, keep=2).model_copy(update={"dry_run": True}) == planned
    again = run_retire(config, keep=2)
    assert (again.retired, again.freed) == ({}, "0 bytes")


def test_what_an_unfinished_run_needs_stays(config: Config, workspace: Store, line: list[str]) -> None:
    drafts_key = content_id(line[3], PROMPT_VERSION, length=12)
    start_run(workspace, "annotate", run_id="by-key", key=f"{drafts_key}-x", config=config)
    start_run(workspace, "annotate", run_id="by-progress", key="x-x", config=config)
    RunProgress(
        run_id="by-progress",
        model_version=line[4],
        prompt_version="p",
        updated_at=NOW,
        figures=Figures(),
        currency="EUR",
    ).write(workspace)
    done = start_run(workspace, "annotate", run_id="over", key="x", config=config)
    done.finished(workspace, {})
    changes = registry.alias_changes(workspace, NAME)
    training = start_run(workspace, "finetune", run_id="training", key="k", config=config)
    training.model_copy(update={"started_at": changes[0].at}).write(workspace)  # when the second was champion
    kept = run_retire(config, keep=1).kept
    assert kept[line[1]] == "unfinished run training"
    assert kept[line[3]] == "unfinished run by-key"
    assert kept[line[4]] == "unfinished run by-progress"
    assert [has_weights(workspace, version) for version in line] == [
        True, True, False, True, True, False, True, True,
    ]  # fmt: skip


def test_what_drafted_an_open_task_stays(config: Config, workspace: Store, line: list[str]) -> None:
    task = {"project": "p", "purpose": "draft", "strategy": "x", "num_readers": 1, "written_at": NOW}
    rows = [
        {"case_id": "open", "model_version": line[1], "state": "sent"},
        {"case_id": "answered", "model_version": line[2], "state": "sent"},
        {"case_id": "removed", "model_version": line[3], "state": "removed"},
    ]
    write_tasks(workspace, [TaskRecord.model_validate({"task_id": 1, **task, **row}) for row in rows])
    write_said(workspace, said("answered"))
    kept = run_retire(config, keep=1).kept
    assert kept[line[1]] == "open tasks"
    assert not {line[2], line[3]} & set(kept)


def test_one_that_is_named_by_an_alias_at_the_last_moment_stays(
    config: Config, workspace: Store, line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    retire = registry.retire

    def named_just_before(store: Store, version: str, *, reason: str) -> int:
        if version == line[2]:
            seen = registry.read_aliases(store, NAME)
            registry.set_aliases(store, NAME, {"challenger": version}, expected=seen)
        return retire(store, version, reason=reason)

    monkeypatch.setattr(registry, "retire", named_just_before)
    assert line[2] in run_retire(config, keep=1).kept
    assert registry.fetch(workspace, line[2]).is_dir()
    with pytest.raises(ConflictError):
        retire(workspace, line[7], reason="a champion")
    registry.check_available(workspace, line[7])


def test_one_that_was_cut_off_is_gone_on_with(config: Config, workspace: Store, line: list[str]) -> None:
    run_retire(config, keep=1)
    workspace.write_bytes(b"weights that were left", "models", *line[2].split("/"), "model.safetensors")
    with pytest.raises(ConfigError, match="retired"):
        registry.fetch(workspace, line[2])
    assert set(run_retire(config, keep=1).retired) == {line[2]}
    assert not has_weights(workspace, line[2])


def test_checkpoints_of_trainings_that_are_over_go_and_their_own_files_stay(
    config: Config, workspace: Store, line: list[str]
) -> None:
    for run_id in ("over", "under-way"):
        run = start_run(workspace, "finetune", run_id=run_id, key="k", config=config)
        workspace.write_bytes(b"x" * 2048, "runs", run_id, "train", "checkpoint_000001", "state.safetensors")
        workspace.write_bytes(b"{}", "runs", run_id, "train", "curve.jsonl")
        if run_id == "over":
            run.finished(workspace, {})
    summary = run_retire(config, keep=8)
    assert (summary.checkpoints, summary.freed) == ({"over": 2048}, "2.0 KiB")
    left = {path for path in files(workspace) if path.startswith("/runs")}
    assert left == {
        "/runs/over/run.json",
        "/runs/over/train/curve.jsonl",
        "/runs/under-way/run.json",
        "/runs/under-way/train/checkpoint_000001/state.safetensors",
        "/runs/under-way/train/curve.jsonl",
    }


def test_another_line_is_left_alone(config: Config, workspace: Store, line: list[str]) -> None:
    other = config.model_copy(update={"model": registry.ModelConfig(name="other")})
    assert run_retire(other, keep=1).retired == {}
    assert all(has_weights(workspace, version) for version in line)
