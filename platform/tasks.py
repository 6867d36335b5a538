"""The ledger of tasks: which cases were given to people, in which project, and what for.

``TaskRecord`` (``tasks/``), append-only; a later row of the same project and case replaces the earlier ones.
Readers never see it: that a case is a control or gold stands here alone. A row is written after the server
has confirmed what it says.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from sonoloop.platform.columns import added_column
from sonoloop.platform.records import Record, content_id
from sonoloop.platform.workspace import Store

_ROOM = "tasks"
_FILES_AT_ONCE = 16

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
            added_column("shown", pa.string()),
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
    shown: str | None = Field(
        default=None, description="hash of the data and prediction that the task has; null where not known"
    )


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

    All of them at once: for a project of any size, see `newest_tasks`.

    Raises:
        StorageError: the workspace cannot be read.
    """
    rows = (TaskRecord.from_row(row) for row in newest_tasks(workspace, project).to_pylist())
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


def control_cases(workspace: Store) -> frozenset[str]:
    """Cases that are shown without a draft, in whatever project.

    Raises:
        StorageError: the workspace cannot be read.
    """
    schema = pa.schema([TaskRecord.ARROW.field(name) for name in ("case_id", "purpose")])
    table = workspace.read_tables(schema, _ROOM)
    return frozenset(table.filter(pc.equal(table["purpose"], "control"))["case_id"].to_pylist())


def newest_tasks(workspace: Store, project: str) -> pa.Table:
    """The newest row of every case of a project as a table, sorted by case id.

    Raises:
        StorageError: the workspace cannot be read.
    """

    def read(path: str) -> pa.Table:
        rows = workspace.read_table(TaskRecord.ARROW, path)
        return rows.filter(pc.equal(rows["project"], project))

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        tables = list(pool.map(read, workspace.table_paths(_ROOM)))
    table = pa.concat_tables([TaskRecord.ARROW.empty_table(), *tables]).combine_chunks()
    table = table.sort_by([("case_id", "ascending"), ("written_at", "ascending")])
    is_last = np.ones(table.num_rows, dtype=bool)
    is_last[:-1] = pc.not_equal(table["case_id"][:-1], table["case_id"][1:]).to_numpy()
    return table.filter(pa.array(is_last))
