"""Annotate started twice at once, on too small a cluster, and on nothing; `tests/chaos` kills it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import outside_ray

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.config import Config
from sonoloop.jobs.index import run_index
from sonoloop.jobs.init import run_init
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup, build_studies
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.tables import read_cases
from sonoloop.platform.workspace import Store

pytestmark = pytest.mark.ray
NUM_STUDIES = 32


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Config:
    """A workspace with cases and a champion, nothing drafted; not to be written to."""
    folder = tmp_path_factory.mktemp("indexed")
    archive = Store(str(folder / "archive"))
    group = PhantomGroup(organ="thyroid", scanner="A", count=NUM_STUDIES)
    for study in build_studies(PhantomConfig(seed=5, groups=(group,), cine_share=0.0, workers=1)):
        for key, data in study.files:
            archive.write_bytes(data, key)
    (folder / "workspace").mkdir()
    config = Config(
        workspace=str(folder / "workspace"),
        archive=archive.root,
        annotate={"cases_per_unit": 4},
    )
    run_init(config)
    run_index(config)
    return config


@pytest.fixture
def config(indexed: Config, tmp_path: Path) -> Config:
    """The same with a copy of the workspace."""
    shutil.copytree(indexed.workspace, tmp_path / "workspace")
    return indexed.model_copy(update={"workspace": str(tmp_path / "workspace")})


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


def test_two_people_who_start_the_same_job_draft_every_case_once(config: Config, tmp_path: Path) -> None:
    command = _command(config, tmp_path)
    two = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=outside_ray()
        )
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
