"""Annotate, killed in the middle and run again: every case once, nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.config import Config
from sonoloop.jobs.index import run_index
from sonoloop.jobs.init import run_init
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup, build_studies
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.tables import read_cases, read_drafts
from sonoloop.platform.workspace import Store

pytestmark = pytest.mark.ray
NUM_STUDIES = 32


@pytest.fixture
def config(tmp_path: Path, ray_cluster: str) -> Config:
    """A workspace with cases and a champion, nothing drafted."""
    archive = Store(str(tmp_path / "archive"))
    group = PhantomGroup(organ="thyroid", scanner="A", count=NUM_STUDIES)
    for study in build_studies(PhantomConfig(seed=5, groups=(group,), cine_share=0.0, workers=1)):
        for key, data in study.files:
            archive.write_bytes(data, key)
    (tmp_path / "workspace").mkdir()
    config = Config(
        workspace=str(tmp_path / "workspace"),
        archive=archive.root,
        annotate={"cases_per_unit": 4},
    )
    run_init(config)
    run_index(config)
    return config


def test_a_run_whose_driver_is_killed_is_finished_by_the_same_command(config: Config, tmp_path: Path) -> None:
    workspace = config.open_workspace()
    command = _command(config, tmp_path)
    _kill_after_first_drafts(command, Path(config.workspace, "drafts"))
    before = {path: path.read_bytes() for path in Path(config.workspace, "drafts").rglob("*.parquet")}
    durable = {draft.case_id for draft in read_drafts(workspace)}
    assert 0 < len(durable) < NUM_STUDIES

    done = subprocess.run(command, capture_output=True, text=True, check=True, env=_own_ray(), timeout=300)

    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert (summary["resumed"], summary["cases"]) == (True, NUM_STUDIES)
    written = [draft.case_id for draft in read_drafts(workspace)]
    assert sorted(written) == [case.case_id for case in read_cases(workspace)]
    assert all(path.read_bytes() == data for path, data in before.items() if path.exists())
    assert run_annotate(config).cases == 0


def test_actors_that_the_cluster_cannot_hold_are_refused_before_anything_waits(config: Config) -> None:
    greedy = config.annotate.model_copy(update={"num_actors": 8})
    with pytest.raises(ConfigError, match=r"annotate needs 10\.5 logical CPUs, the cluster has 4"):
        run_annotate(config.model_copy(update={"annotate": greedy}))


def test_a_workspace_without_cases_says_what_to_do(config: Config, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = config.model_copy(update={"workspace": str(tmp_path / "empty")})
    run_init(empty)
    with pytest.raises(NothingToDoError, match="run `sonoloop index` first"):
        run_annotate(empty)


def _command(config: Config, folder: Path) -> list[str]:
    text = f'workspace = "{config.workspace}"\narchive = "{config.archive}"\n[annotate]\ncases_per_unit = 4\n'
    (folder / "sonoloop.toml").write_text(text)
    program = [sys.executable, "-m", "sonoloop.jobs.cli", "annotate"]
    return [*program, "--config", str(folder / "sonoloop.toml"), "--json"]


def _own_ray() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def _kill_after_first_drafts(command: list[str], drafts: Path) -> None:
    process = subprocess.Popen(command, env=_own_ray(), start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(drafts.rglob("*.parquet")):
        assert process.poll() is None, "annotate ended before it could be killed"
        assert time.monotonic() < deadline, "annotate wrote no draft"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_two_people_who_start_the_same_job_draft_every_case_once(config: Config, tmp_path: Path) -> None:
    command = _command(config, tmp_path)
    two = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_own_ray())
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=300) for process in two]
    assert [process.returncode for process in two] == [0, 0], answers
    summaries = [json.loads(out.strip().splitlines()[-1]) for out, _ in answers]
    assert sorted((s["cases"], s["held"]) for s in summaries) == [(0, NUM_STUDIES), (NUM_STUDIES, 0)]
    assert any("is under way; its cases are left to it" in err for _, err in answers)
    rows = config.open_workspace().read_tables(DraftRecord.ARROW, "drafts")
    assert sorted(rows["case_id"].to_pylist()) == [
        case.case_id for case in read_cases(config.open_workspace())
    ]
