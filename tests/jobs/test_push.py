"""Who is given out, how, and what a later push changes of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.jobs.pushable import (
    MODEL,
    NAME,
    NOW,
    add_drafts,
    answer,
    case,
    ledger,
    pushable,
    raw_tasks,
    shown,
)

from sonoloop.jobs.config import Config, PushConfig
from sonoloop.jobs.push import run_push
from sonoloop.jobs.pushing.gold import read_gold
from sonoloop.model.calibration import Calibrator
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.model.scaling import Scaling
from sonoloop.platform import registry
from sonoloop.platform.duplicates import DuplicateRecord, write_duplicates
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.records import ReviewRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.sorted_rooms import CASES, write_sorted

if TYPE_CHECKING:
    from tests.conftest import LabelStudioStack, S3Stack

pytestmark = pytest.mark.labelstudio
UNCERTAIN = {"shares": {"uncertain": 1}, "control_share": 0, "agreement_share": 0}
SURE = {"a": 0.6, "b": 0.9, "c": 0.7}


@pytest.fixture
def config(stack_s3: S3Stack, stack_labelstudio: LabelStudioStack, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Three drafted cases on S3, sure by 0.6, 0.9 and 0.7."""
    for name, value in stack_labelstudio.env.items():
        monkeypatch.setenv(name, value)
    return pushable(stack_s3.bucket(), stack_s3.endpoint, stack_labelstudio.url, SURE, push=UNCERTAIN)


def _with_push(config: Config, **push: object) -> Config:
    return config.model_copy(update={"push": PushConfig.model_validate({**UNCERTAIN, **push})})


def _scores(config: Config) -> dict[str, float]:
    return {task["data"]["case_id"]: task["predictions"][-1]["score"] for task in raw_tasks(config)}


def test_a_budget_takes_what_its_strategy_takes_first_and_shows_how_sure_the_draft_is(config: Config) -> None:
    first = run_push(config, budget=1)
    assert (first.chosen_by, first.calibrated, first.new_tasks) == ({"uncertain": 1}, False, 1)
    assert _scores(config) == {"a": pytest.approx(0.6)}
    assert run_push(_with_push(config, shares={"certain": 1}), budget=1).new_tasks == 1
    assert _scores(config) == {"a": pytest.approx(0.6), "b": pytest.approx(0.9)}
    assert {row.strategy for row in ledger(config).values()} == {"uncertain", "certain"}


def test_the_same_push_again_asks_for_no_task_and_changes_nothing(config: Config) -> None:
    assert run_push(config).new_tasks == 3
    before = raw_tasks(config), ledger(config)
    again = run_push(config)
    assert (again.new_tasks, again.new_predictions, again.updated, again.unchanged) == (0, 0, 0, 3)
    assert (raw_tasks(config), ledger(config)) == before


def test_of_near_duplicates_one_is_read_unless_asked_and_tasks_that_are_there_stay(config: Config) -> None:
    assert run_push(config, budget=1).new_tasks == 1
    _mark(config, "a", "b", "c")
    none_more = run_push(config, budget=2)
    assert (none_more.new_tasks, none_more.near_duplicates, none_more.cases) == (0, 2, 1)
    _mark(config, "b", "c")
    assert run_push(_with_push(config, shares={"certain": 1})).near_duplicates == 1
    assert set(_scores(config)) == {"a", "b"}
    everything = run_push(config, near_duplicates=True)
    assert (everything.new_tasks, everything.near_duplicates) == (1, 0)
    assert set(_scores(config)) == {"a", "b", "c"}


def _mark(config: Config, *group: str) -> None:
    marks = [DuplicateRecord(case_id=name, group_key=min(group), distance=0, marked_at=NOW) for name in group]
    write_duplicates(config.open_workspace(), marks)


def test_a_new_calibrator_changes_the_scores_of_tasks_that_nobody_works_on(config: Config) -> None:
    assert not run_push(config).calibrated
    answer(config, "b")
    flat = _calibrate(config)
    again = run_push(config)
    assert (again.calibrated, again.updated, again.worked_on) == (True, 2, 1)
    assert _scores(config) == pytest.approx({"a": flat(0.6), "b": 0.9, "c": flat(0.7)})
    assert run_push(config).unchanged == 3


def _calibrate(config: Config) -> Scaling:
    flat = Scaling(temperature=100.0, bias=-2.0)
    calibrator = Calibrator(
        model_version=MODEL, prompt_version=PROMPT_VERSION, snapshot="s", pooled=flat, organs={}
    )
    place = ("models", MODEL, "calibration.json")
    config.open_workspace().write_bytes(calibrator.model_dump_json().encode(), *place)
    return flat


def test_a_new_champion_adds_a_prediction_to_open_tasks_and_never_a_task(config: Config) -> None:
    run_push(config)
    answer(config, "c")
    add_drafts(config, SURE, f"{NAME}/2")
    workspace = config.open_workspace()
    registry.set_aliases(workspace, NAME, {"champion": f"{NAME}/2"}, expected=Aliases(champion=MODEL))
    again = run_push(config)
    assert (again.new_tasks, again.new_predictions, again.worked_on) == (0, 2, 1)
    both = [MODEL, f"{NAME}/2"]
    assert shown(config) == {"a": both, "b": both, "c": [MODEL]}
    versions = {case_id: row.model_version for case_id, row in ledger(config).items()}
    assert versions == {"a": f"{NAME}/2", "b": f"{NAME}/2", "c": MODEL}


def test_controls_have_no_draft_and_only_the_ledger_knows(config: Config) -> None:
    pushed = run_push(_with_push(config, control_share=1))
    assert (pushed.new_tasks, pushed.controls) == (3, 3)
    assert shown(config) == {"a": [], "b": [], "c": []}
    assert {(row.purpose, row.model_version) for row in ledger(config).values()} == {("control", None)}
    run_push(config)
    assert shown(config) == {"a": [], "b": [], "c": []}
    draft_of_other = _with_push(config, control_share=0)
    assert "control" not in str(raw_tasks(draft_of_other)[0]["data"])


def test_cases_for_two_readers_stay_open_after_the_first(config: Config) -> None:
    pushed = run_push(_with_push(config, agreement_share=1), budget=1)
    assert pushed.two_readers == 1
    answer(config, "a")
    (task,) = raw_tasks(config)
    assert (task["overlap"], task["is_labeled"]) == (2, False)
    assert ledger(config)["a"].num_readers == 2


def test_gold_cases_come_first_in_a_budget_and_open_ones_become_gold(config: Config, tmp_path: Path) -> None:
    run_push(config, budget=1)
    path = tmp_path / "gold.txt"
    path.write_text("# truth is known\nb\n\na\n")
    pushed = run_push(config, budget=1, gold=read_gold(path))
    assert (pushed.gold, pushed.chosen_by) == (1, {"gold": 1})
    rows = ledger(config)
    assert {case_id: row.purpose for case_id, row in rows.items()} == {"a": "gold", "b": "gold"}
    assert shown(config) == {"a": [MODEL], "b": [MODEL]}
    with pytest.raises(ConfigError, match="1 gold cases cannot be shown: nobody;"):
        run_push(config, gold=("nobody", "c"))


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_a_gold_file_without_a_case_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "gold.txt").write_text(text)
    with pytest.raises(ConfigError, match="names no case"):
        read_gold(tmp_path / "gold.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_gold(tmp_path / "none.txt")


def test_a_case_that_shows_patient_data_or_is_withdrawn_is_not_given_out(config: Config) -> None:
    workspace = config.open_workspace()
    withdrawn = case("a", withdrawn=True, at=NOW + timedelta(days=1))
    write_sorted(workspace, CASES, [withdrawn], "1.parquet")
    _escaped(config, "b")
    assert run_push(config).new_tasks == 1
    assert set(shown(config)) == {"c"}
    _escaped(config, "b", deleted=True)
    assert run_push(config).new_tasks == 1
    assert set(shown(config)) == {"b", "c"}


def _escaped(config: Config, case_id: str, *, deleted: bool = False) -> None:
    review = ReviewRecord(
        review_id=f"r{deleted}",
        annotation_id=1,
        task_id=1,
        case_id=case_id,
        model_version=None,
        reader="x",
        findings="",
        impression="",
        entities=None,
        boxes=(),
        origins={},
        lead_time_s=None,
        created_at=NOW,
        updated_at=NOW + timedelta(hours=deleted),
        escape="patient-data-visible",
        deleted=deleted,
    )
    config.open_workspace().write_table(ReviewRecord.table([review]), "reviews", f"{deleted}.parquet")


def test_a_task_is_brought_up_to_date_no_more_when_its_case_may_not_be_shown(config: Config) -> None:
    run_push(config)
    _escaped(config, "b")
    _calibrate(config)
    assert run_push(config).updated == 2
    assert _scores(config)["b"] == pytest.approx(0.9)


def test_a_champion_without_drafts_has_nothing_to_show(config: Config) -> None:
    workspace = config.open_workspace()
    registry.set_aliases(workspace, NAME, {"champion": f"{NAME}/7"}, expected=Aliases(champion=MODEL))
    with pytest.raises(NothingToDoError, match="run `sonoloop annotate` first"):
        run_push(config)
