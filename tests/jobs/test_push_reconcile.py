"""Server and ledger are compared both ways, mended and proven equal; what people deleted stays away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.jobs.pushable import MODEL, answer, delete_tasks, ledger, pushable, raw_tasks, shown

from sonoloop.jobs.config import Config
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.push import run_push, run_reconcile
from sonoloop.platform.errors import ServiceError

if TYPE_CHECKING:
    from tests.conftest import LabelStudioStack, S3Stack

pytestmark = pytest.mark.labelstudio
CASES = dict.fromkeys((f"case-{n}" for n in range(6)), 0.5)


@pytest.fixture
def config(stack_s3: S3Stack, stack_labelstudio: LabelStudioStack, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Six cases, all pushed."""
    for name, value in stack_labelstudio.env.items():
        monkeypatch.setenv(name, value)
    made = pushable(stack_s3.bucket(), stack_s3.endpoint, stack_labelstudio.url, CASES)
    assert run_push(made).new_tasks == 6
    return made


def _import_again(config: Config, *case_ids: str) -> None:
    """What a second copy of the tool, or a person with a file, does."""
    again = [
        {"data": task["data"], "predictions": [{"model_version": "x", "result": []}]}
        for task in raw_tasks(config)
        if task["data"]["case_id"] in case_ids
    ]
    with open_project(config) as (door, project):
        door.connection.write("POST", f"/api/projects/{project.id}/import", again)


def test_what_is_equal_is_told_to_be_and_left_alone(config: Config) -> None:
    before = ledger(config)
    found = run_reconcile(config)
    mended = found.model_dump(exclude={"project", "server_tasks", "ledger_tasks", "tasks_now"})
    assert set(mended.values()) == {0}
    assert (found.server_tasks, found.ledger_tasks, found.tasks_now) == (6, 6, 6)
    assert ledger(config) == before


def test_tasks_that_the_ledger_does_not_know_are_entered_and_not_made_again(config: Config) -> None:
    workspace, before = config.open_workspace(), ledger(config)
    workspace.remove_paths(workspace.table_paths("tasks"))
    found = run_reconcile(config)
    assert (found.entered, found.ledger_tasks) == (6, 0)
    assert {
        case_id: (row.task_id, row.purpose, row.model_version) for case_id, row in ledger(config).items()
    } == {case_id: (row.task_id, "draft", MODEL) for case_id, row in before.items()}
    again = run_push(config)
    assert (again.new_tasks, again.new_predictions, again.unchanged) == (0, 0, 6)


def test_doubles_are_removed_but_never_one_that_was_worked_on(config: Config) -> None:
    _import_again(config, "case-1", "case-2", "case-3")
    newer = raw_tasks(config)[-1]
    assert newer["data"]["case_id"] == "case-3"
    with open_project(config) as (door, _):
        door.create_annotation(newer["id"], [], parent_prediction=None)
    found = run_reconcile(config)
    assert (found.server_tasks, found.doubles_removed, found.tasks_now) == (9, 3, 6)
    assert set(shown(config)) == set(CASES)
    assert ledger(config)["case-3"].task_id == newer["id"]
    assert run_reconcile(config).entered == 0


def test_doubles_that_both_were_worked_on_stay_and_are_counted(config: Config) -> None:
    _import_again(config, "case-1")
    with open_project(config) as (door, _):
        for task in raw_tasks(config):
            if task["data"]["case_id"] == "case-1":
                door.create_annotation(task["id"], [], parent_prediction=None)
    found = run_reconcile(config)
    assert (found.doubles_removed, found.doubles_worked_on, found.tasks_now) == (0, 1, 7)


def test_a_task_that_a_person_deleted_is_put_down_and_not_made_again(config: Config) -> None:
    delete_tasks(config, ["case-0", "case-4"])
    again = run_push(config)
    assert (again.new_tasks, again.removed_by_people, again.unchanged) == (0, 2, 4)
    rows = ledger(config)
    assert {case_id for case_id, row in rows.items() if row.state == "removed"} == {"case-0", "case-4"}
    assert set(shown(config)) == set(CASES) - {"case-0", "case-4"}
    assert run_reconcile(config).removed_by_people == 0


def test_a_task_that_is_back_counts_again(config: Config) -> None:
    (kept,) = (task for task in raw_tasks(config) if task["data"]["case_id"] == "case-0")
    delete_tasks(config, ["case-0"])
    assert run_reconcile(config).removed_by_people == 1
    with open_project(config) as (door, project):
        body = [{"data": kept["data"], "predictions": []}]
        door.connection.write("POST", f"/api/projects/{project.id}/import", body)
    assert run_reconcile(config).entered == 1
    assert run_push(config).new_predictions == 1
    assert shown(config)["case-0"] == [MODEL]


def test_a_project_that_lost_most_tasks_is_not_believed_unless_a_person_asks(config: Config) -> None:
    delete_tasks(config, [f"case-{n}" for n in range(4)])
    with pytest.raises(ServiceError, match=r"of 6 tasks .* 4 are gone; .* choose another project title"):
        run_push(config)
    assert {row.state for row in ledger(config).values()} == {"sent"}
    assert run_reconcile(config).removed_by_people == 4
    assert run_push(config).new_tasks == 0


def test_somebody_elses_tasks_are_counted_and_left_alone(config: Config) -> None:
    with open_project(config) as (door, project):
        body = [{"data": {"images": ["s3://other/i.png"]}}]
        door.connection.write("POST", f"/api/projects/{project.id}/import", body)
    found = run_reconcile(config)
    assert (found.foreign_tasks, found.entered, found.tasks_now) == (1, 0, 7)
    assert run_push(config).unchanged == 6


def test_a_row_that_names_a_prediction_that_is_not_there_is_corrected_and_push_makes_it_good(
    config: Config,
) -> None:
    answer(config, "case-1")
    with open_project(config) as (door, project):
        for task in door.all_tasks(project.id):
            if task.data.case_id in ("case-1", "case-2"):
                door.connection.write("DELETE", f"/api/predictions/{task.predictions[0].id}/")
    assert run_reconcile(config).corrected == 2
    assert run_push(config).new_predictions == 1
    assert shown(config) == {**{case_id: [MODEL] for case_id in CASES}, "case-1": []}
