"""The ledger of tasks: which cases were given to people, in which project, and what for.

``TaskRecord`` (``tasks/``), append-only; a later row of the same project and case replaces the earlier ones.
Readers never see it: that a case is a control or gold stands here alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from sonoloop.platform.records import Record, content_id
from sonoloop.platform.workspace import Store

_ROOM = "tasks"

Purpose = Literal["draft", "control", "gold", "adjudication"]
"""A draft to correct; a case shown without one, to measure what drafts do; one whose answer is known; one
that its readers disagree on, in a project of its own.
"""


class TaskRecord(Record):
    """A task that a project has, or had."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("project", pa.string()),
            ("case_id", pa.string()),
            ("task_id", pa.int64()),
            ("purpose", pa.string()),
            ("strategy", pa.string()),
            ("num_readers", pa.int32()),
            ("model_version", pa.string()),
            ("state", pa.string()),
            ("written_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    project: str = Field(description="`project_key`")
    case_id: str
    task_id: int | None = Field(description="of the server, where it is known")
    purpose: Purpose
    strategy: str = Field(description="what chose the case")
    num_readers: int = Field(ge=1, description="people who are to read it")
    model_version: str | None = Field(description="of the newest prediction; null without one")
    state: Literal["sent", "removed"] = Field(description="removed: a person deleted the task")
    written_at: datetime


def project_key(url: str, project_id: int) -> str:
    """Twelve hex digits that name a project of a Label Studio."""
    return content_id(url.rstrip("/"), str(project_id), length=12)


def write_tasks(workspace: Store, records: list[TaskRecord]) -> None:
    """Append these; nothing is written for none.

    Raises:
        StorageError: the workspace cannot be written.
    """
    if records:
        rows = [f"{record.project}:{record.case_id}:{record.written_at.isoformat()}" for record in records]
        workspace.write_table(TaskRecord.table(records), _ROOM, f"{content_id(*rows, length=16)}.parquet")


def read_tasks(workspace: Store, project: str) -> dict[str, TaskRecord]:
    """The newest row of every case of a project, by case id.

    Raises:
        StorageError: the workspace cannot be read.
    """
    table = workspace.read_tables(TaskRecord.ARROW, _ROOM).sort_by("written_at")
    rows = [TaskRecord.from_row(row) for row in table.to_pylist() if row["project"] == project]
    return {row.case_id: row for row in rows}


def gold_since(workspace: Store) -> dict[tuple[str, str], datetime]:
    """When each gold case became one, by project and case id.

    Raises:
        StorageError: the workspace cannot be read.
    """
    table = workspace.read_tables(TaskRecord.ARROW, _ROOM)
    gold = table.filter(pc.equal(table["purpose"], "gold"))
    first = gold.group_by(["project", "case_id"]).aggregate([("written_at", "min")]).to_pylist()
    return {(row["project"], row["case_id"]): row["written_at_min"] for row in first}
