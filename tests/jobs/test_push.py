"""Which cases people see first, and how sure the page says that the model is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from sonoloop.jobs.config import Config, PushConfig, PushOrder
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.push import in_order, run_push
from sonoloop.model.calibration import Calibrator
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.model.scaling import Scaling
from sonoloop.platform import registry
from sonoloop.platform.duplicates import DuplicateRecord, write_duplicates
from sonoloop.platform.records import CaseRecord, DraftRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.workspace import S3Config, Store

if TYPE_CHECKING:
    from tests.conftest import LabelStudioStack, S3Stack

MODEL = "echovlm-nano/1"
SCORES = {"a": 0.9, "b": 0.2, "c": 0.9, "d": None, "e": 0.5}


@pytest.mark.parametrize(
    ("order", "expected"), [("uncertain", "dbeac"), ("certain", "acebd"), ("archive", "abcde")]
)
def test_cases_come_in_the_order_asked_for_and_equal_ones_by_id(order: PushOrder, expected: str) -> None:
    for names in ("abcde", "edcba", "cadbe"):
        assert "".join(in_order(names, SCORES, order)) == expected


def test_an_order_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="uncertain"):
        PushConfig.model_validate({"order": "random"})


@pytest.fixture
def config(stack_s3: S3Stack, stack_labelstudio: LabelStudioStack, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Three drafted cases on S3, sure by 0.6, 0.9 and 0.7."""
    for name, value in stack_labelstudio.env.items():
        monkeypatch.setenv(name, value)
    bucket = stack_s3.bucket()
    config = Config(
        workspace=f"s3://{bucket}/workspace",
        archive=f"s3://{bucket}/archive",
        s3=S3Config(endpoint_url=stack_s3.endpoint),
        labelstudio={"url": stack_labelstudio.url, "project": f"Push {bucket}"},
    )
    workspace = Store(config.workspace, config.s3)
    workspace.write_bytes(b"a picture", "images", "ab", "c.png")  # Label Studio wants a prefix with something
    workspace.write_table(CaseRecord.table([_case(name) for name in "abc"]), "cases", "0.parquet")
    drafts = [_draft(name, sure) for name, sure in (("a", 0.6), ("b", 0.9), ("c", 0.7))]
    workspace.write_table(DraftRecord.table(drafts), "drafts", "r", "0.parquet")
    registry.set_aliases(workspace, config.model.name, {"champion": MODEL}, expected=Aliases())
    return config


def _case(case_id: str) -> CaseRecord:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return CaseRecord(
        case_id=case_id, patient_key="p", organ_hint="liver", scanner=None, images=(), indexed_at=now
    )


def _draft(case_id: str, sure: float) -> DraftRecord:
    return DraftRecord(
        case_id=case_id,
        run_id="r",
        model_version=MODEL,
        prompt_version=PROMPT_VERSION,
        config_hash="h",
        status="draft",
        findings="f",
        impression="i",
        entities='{"organ":"liver","parenchyma":"normal","lesion":"absent"}',
        confidence=0.1,
        value_probabilities={"parenchyma": sure, "lesion": sure},
    )


@pytest.mark.labelstudio
def test_a_budget_takes_the_least_sure_cases_first_and_shows_how_sure_the_draft_is(config: Config) -> None:
    first = run_push(config, budget=1)
    assert (first.order, first.calibrated, first.new_tasks) == ("uncertain", False, 1)
    assert _scores(config) == {"a": pytest.approx(0.6)}
    second = config.model_copy(update={"push": PushConfig(order="certain")})
    assert run_push(second, budget=1).new_tasks == 1
    assert _scores(config) == {"a": pytest.approx(0.6), "b": pytest.approx(0.9)}


@pytest.mark.labelstudio
def test_of_near_duplicates_one_is_read_unless_asked_and_tasks_that_are_there_stay(config: Config) -> None:
    assert run_push(config, budget=1).new_tasks == 1
    _mark(config, "a", "b", "c")
    none_more = run_push(config, budget=2)
    assert (none_more.new_tasks, none_more.near_duplicates, none_more.cases) == (0, 2, 1)
    _mark(config, "b", "c")
    surest = config.model_copy(update={"push": PushConfig(order="certain")})
    assert run_push(surest).near_duplicates == 1
    assert set(_scores(config)) == {"a", "b"}
    everything = run_push(config, near_duplicates=True)
    assert (everything.new_tasks, everything.near_duplicates) == (1, 0)
    assert set(_scores(config)) == {"a", "b", "c"}


def _mark(config: Config, *group: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    marks = [DuplicateRecord(case_id=name, group_key=min(group), distance=0, marked_at=now) for name in group]
    write_duplicates(config.open_workspace(), marks)


@pytest.mark.labelstudio
def test_the_score_of_a_case_is_calibrated_where_the_champion_has_a_calibrator(config: Config) -> None:
    flat = Scaling(temperature=100.0, bias=-2.0)
    calibrator = Calibrator(
        model_version=MODEL, prompt_version=PROMPT_VERSION, snapshot="s", pooled=flat, organs={}
    )
    place = ("models", MODEL, "calibration.json")
    config.open_workspace().write_bytes(calibrator.model_dump_json().encode(), *place)
    assert run_push(config).calibrated
    assert _scores(config) == {
        name: pytest.approx(flat(sure)) for name, sure in (("a", 0.6), ("b", 0.9), ("c", 0.7))
    }


def _scores(config: Config) -> dict[str, float]:
    with open_project(config) as (door, project):
        pages = door.connection.get("/api/tasks/", project=project.id, fields="all")["tasks"]
    return {task["data"]["case_id"]: task["predictions"][0]["score"] for task in pages}
