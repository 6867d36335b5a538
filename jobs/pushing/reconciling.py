"""Server and ledger compared both ways, mended, and proven equal.

| found | mended by |
|---|---|
| a task of a case that the ledger does not know, or knows by another id | a row is written |
| tasks of one case, more than one | all but one are removed, never one that was worked on |
| a row whose task is not on the server | the row says ``removed``: a person deleted it, and it stays away |
| a row that names another prediction than the newest there | the row names that one; push looks again |
| a task with two predictions of one version | the same: push removes one |

Tasks without a case id were put there by somebody else: they are counted and left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import BaseModel

from sonoloop.jobs.pushing.ledger import Ledger
from sonoloop.jobs.pushing.showing import Showing
from sonoloop.platform.errors import CountError, ServiceError
from sonoloop.platform.labelstudio.answers import Project, SeenTask
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.predictions import model_version_of
from sonoloop.platform.labelstudio.upload import TaskWriter, is_worked_on, keep_one
from sonoloop.platform.tasks import TaskRecord

ROWS_AT_ONCE = 1000


class ReconcileSummary(BaseModel):
    """What server and ledger had, what was mended, and that they are equal now."""

    project: str
    server_tasks: int
    ledger_tasks: int
    entered: int
    doubles_removed: int
    doubles_worked_on: int
    removed_by_people: int
    corrected: int
    foreign_tasks: int
    tasks_now: int


@dataclass(frozen=True, slots=True)
class _OnServer:
    """The task of a case, in short."""

    task_id: int
    model_version: str | None
    has_prediction: bool
    num_readers: int
    is_worked_on: bool
    has_doubled: bool


@dataclass
class _Server:
    """What the project holds."""

    tasks: dict[str, _OnServer] = field(default_factory=dict)
    doubled: set[str] = field(default_factory=set)
    num_tasks: int = 0
    num_foreign: int = 0


def reconcile(
    door: LabelStudioDoor,
    project: Project,
    ledger: Ledger,
    showing: Showing,
    *,
    asked_for: bool,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ReconcileSummary:
    """Compare, mend, and count again.

    Args:
        door: The Label Studio.
        project: The project.
        ledger: Its ledger, read just now; to be read again afterwards.
        showing: What a case is given out for, where its row was lost.
        asked_for: Whether a person asked for it; if not, more than half of the tasks missing is too much to
            be believed.
        on_progress: Told the number of tasks of each thousand that was read.

    Raises:
        ServiceError: the server refuses; or it lacks most tasks and nobody asked.
        CountError: they differ still, since somebody changes the project meanwhile.
    """
    server = _read(door, project.id, on_progress)
    gone = [row for row in ledger.all_rows() if row.state == "sent" and row.case_id not in server.tasks]
    if not asked_for and 2 * len(gone) > ledger.num_sent:
        raise ServiceError(
            f"of {ledger.num_sent} tasks that were sent to project {project.title!r}, {len(gone)} are gone; "
            "if people deleted them, `sonoloop push --reconcile` puts that down and they stay away; if Label "
            "Studio was set up anew, choose another project title"
        )
    removed, kept_doubles = _remove_doubles(door, project.id, server)
    ledger.write([row.model_copy(update={"state": "removed"}) for row in gone])
    entered, corrected = _mend_rows(TaskWriter(door, project.id), ledger, showing, server)
    now = door.find_project(project.title)
    num_now = 0 if now is None else now.task_number or 0
    num_expected = len(server.tasks) + server.num_foreign + kept_doubles
    if num_now != num_expected:
        raise CountError(
            f"project {project.title!r} holds {num_now} tasks, {num_expected} are accounted for; somebody "
            "changes it meanwhile: run `sonoloop push --reconcile` again"
        )
    return ReconcileSummary(
        project=project.title,
        server_tasks=server.num_tasks,
        ledger_tasks=ledger.num_sent,
        entered=entered,
        doubles_removed=removed,
        doubles_worked_on=kept_doubles,
        removed_by_people=len(gone),
        corrected=corrected,
        foreign_tasks=server.num_foreign,
        tasks_now=num_now,
    )


def _read(door: LabelStudioDoor, project_id: int, on_progress: Callable[[int], None]) -> _Server:
    server = _Server()
    for task in door.all_tasks(project_id):
        server.num_tasks += 1
        if server.num_tasks % ROWS_AT_ONCE == 0:
            on_progress(ROWS_AT_ONCE)
        case_id = task.data.case_id
        if case_id is None:
            server.num_foreign += 1
        elif case_id in server.tasks:
            server.doubled.add(case_id)
        else:
            server.tasks[case_id] = _short(task)
    return server


def _short(task: SeenTask) -> _OnServer:
    newest = max(task.predictions, key=lambda prediction: prediction.id, default=None)
    name = None if newest is None or newest.model_version is None else model_version_of(newest.model_version)
    versions = [prediction.model_version for prediction in task.predictions]
    return _OnServer(
        task_id=task.id,
        model_version=name,
        has_prediction=newest is not None,
        num_readers=task.overlap,
        is_worked_on=is_worked_on(task),
        has_doubled=len(set(versions)) < len(versions) and not is_worked_on(task),
    )


def _remove_doubles(door: LabelStudioDoor, project_id: int, server: _Server) -> tuple[int, int]:
    """Returns how many tasks were removed, and how many doubles stay since they were worked on."""
    num_removed = num_kept = 0
    for case_id in sorted(server.doubled):
        tasks = door.tasks_of(project_id, [case_id])
        kept, removed = keep_one(door, tasks)
        server.tasks[case_id] = _short(kept)
        num_removed += removed
        num_kept += len(tasks) - removed - 1
    return num_removed, num_kept


def _mend_rows(writer: TaskWriter, ledger: Ledger, showing: Showing, server: _Server) -> tuple[int, int]:
    """Write the rows that the ledger lacks or has otherwise; returns how many of either."""
    entered = corrected = 0
    cases = sorted(server.tasks)
    for start in range(0, len(cases), ROWS_AT_ONCE):
        some = cases[start : start + ROWS_AT_ONCE]
        rows, mended = ledger.rows(some), []
        for case_id in some:
            row, task = rows.get(case_id), server.tasks[case_id]
            if row is None:
                mended.append(_entered(ledger.project, case_id, task, writer, showing))
            elif (row.state, row.task_id) != ("sent", task.task_id):
                changes = {"state": "sent", "task_id": task.task_id, "model_version": task.model_version}
                mended.append(row.model_copy(update={**changes, "shown": None}))
            elif row.model_version != task.model_version or task.has_doubled:
                mended.append(_corrected(row, task))
                corrected += 1
        ledger.write(mended)
        entered += len(mended)
    return entered - corrected, corrected


def _corrected(row: TaskRecord, task: _OnServer) -> TaskRecord:
    return row.model_copy(update={"model_version": task.model_version, "shown": None})


def _entered(project: str, case_id: str, task: _OnServer, writer: TaskWriter, showing: Showing) -> TaskRecord:
    """A row for a task that was sent and not put down; its number of readers is made good."""
    purpose = showing.purpose(case_id)
    if task.has_prediction and purpose == "control":
        purpose = "draft"
    num_readers = max(task.num_readers, 1 if task.is_worked_on else showing.num_readers(case_id))
    if num_readers != task.num_readers:
        writer.set_readers(task.task_id, num_readers)
    return TaskRecord(
        project=project,
        case_id=case_id,
        task_id=task.task_id,
        purpose=purpose,
        strategy="found",
        num_readers=num_readers,
        model_version=task.model_version,
        state="sent",
        written_at=datetime.now(UTC),
    )
