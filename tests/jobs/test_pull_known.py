"""What a pull knows before it asks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from said import START, said, write_said

from sonoloop.jobs.pulling.known import Known
from sonoloop.platform.workspace import Store


def test_an_empty_workspace_knows_nothing(tmp_path: Path) -> None:
    known = Known.read(Store(str(tmp_path)), "p")
    assert not known.has(1, START)
    assert known.live_of(1) == []
    assert list(known.live_counts()) == []


def test_rows_are_known_by_annotation_and_time_and_only_of_the_project(tmp_path: Path) -> None:
    workspace = Store(str(tmp_path))
    numbers = {"annotation_id": 7, "task_id": 3}
    write_said(workspace, said("c", project="p", **numbers), said("c", hours=2, project="p", **numbers))
    write_said(workspace, said("c", hours=5, project="q", **numbers), said("c", hours=6, **numbers))
    known = Known.read(workspace, "p")
    later = {hours: known.has(7, START + timedelta(hours=hours)) for hours in (0, 1, 2, 5, 6)}
    assert later == {0: True, 1: False, 2: True, 5: False, 6: False}
    assert not known.has(8, START)
    assert known.live_of(3) == [7]


def test_a_deleted_annotation_does_not_stand_and_one_that_came_back_does(tmp_path: Path) -> None:
    workspace = Store(str(tmp_path))
    task = {"task_id": 3, "project": "p"}
    write_said(workspace, *(said("c", annotation_id=number, **task) for number in (1, 2, 3)))
    write_said(workspace, said("c", hours=1, annotation_id=2, deleted=True, **task))
    write_said(workspace, said("d", annotation_id=4, task_id=9, project="p"))
    known = Known.read(workspace, "p")
    assert known.live_of(3) == [1, 3]
    assert list(known.live_counts()) == [(3, 2), (9, 1)]
    write_said(workspace, said("c", hours=2, annotation_id=2, **task))
    assert sorted(Known.read(workspace, "p").live_of(3)) == [1, 2, 3]
