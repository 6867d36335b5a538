"""The ledger of tasks: the newest row of a case counts, each project has its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sonoloop.platform.tasks import TaskRecord, newest_tasks, project_key, read_tasks, write_tasks
from sonoloop.platform.workspace import Store

KEY = project_key("http://here", 1)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def _row(case_id: str, task_id: int, *, hours: int = 0, project: str = KEY, **more: object) -> TaskRecord:
    values = {
        "project": project,
        "case_id": case_id,
        "task_id": task_id,
        "purpose": "draft",
        "strategy": "uncertain",
        "num_readers": 1,
        "model_version": "nano/1",
        "state": "sent",
        "written_at": BEGIN + timedelta(hours=hours),
        **more,
    }
    return TaskRecord.model_validate(values)


def test_the_newest_row_of_a_case_counts_whichever_was_written_to_the_store_last(workspace: Store) -> None:
    newer = _row("b", 2, hours=2, state="removed", shown="h")
    for rows in ([newer], [_row("b", 2), _row("a", 1)], [_row("c", 3, hours=1)]):
        write_tasks(workspace, rows)
    assert read_tasks(workspace, KEY) == {"a": _row("a", 1), "b": newer, "c": _row("c", 3, hours=1)}
    assert newest_tasks(workspace, KEY)["case_id"].to_pylist() == ["a", "b", "c"]


def test_a_project_has_a_ledger_of_its_own(workspace: Store) -> None:
    other = project_key("http://here/", 2)
    assert project_key("http://here/", 1) == KEY != other
    write_tasks(workspace, [_row("a", 1), _row("a", 7, project=other)])
    assert read_tasks(workspace, other)["a"].task_id == 7
    assert read_tasks(workspace, project_key("http://there", 1)) == {}


def test_rows_from_before_the_hash_of_what_is_shown_read_with_none(workspace: Store) -> None:
    old = TaskRecord.table([_row("a", 1)]).drop_columns(["shown"])
    workspace.write_table(old, "tasks", "old.parquet")
    assert read_tasks(workspace, KEY)["a"].shown is None


def test_no_row_writes_no_file(workspace: Store) -> None:
    write_tasks(workspace, [])
    assert workspace.table_paths("tasks") == []
