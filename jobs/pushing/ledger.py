"""The ledger of a project while it is pushed to: what was sent, asked for by case, and new rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sonoloop.platform.tasks import TaskRecord, newest_tasks, write_tasks
from sonoloop.platform.workspace import Store


class Ledger:
    """The newest row of every case of one project, as columns; rows written meanwhile are not among them.

    Args:
        workspace: Where the ledger lies.
        project: `project_key`.
        table: Of `newest_tasks`.
    """

    def __init__(self, workspace: Store, project: str, table: pa.Table) -> None:
        self._workspace, self.project, self._table = workspace, project, table
        self._ids = table["case_id"].to_numpy().astype(np.bytes_)  # sorted as the table is

    @classmethod
    def read(cls, workspace: Store, project: str) -> Self:
        """As it is now.

        Raises:
            StorageError: the workspace cannot be read.
        """
        return cls(workspace, project, newest_tasks(workspace, project))

    @property
    def num_sent(self) -> int:
        """Cases that have a task, as far as is known."""
        return int(pc.sum(pc.equal(self._table["state"], "sent")).as_py() or 0)

    def num_showing(self, model_version: str) -> int:
        """Cases whose task has a prediction of this model version."""
        return int(pc.sum(pc.equal(self._table["model_version"], model_version)).as_py() or 0)

    @property
    def case_ids(self) -> pa.ChunkedArray:
        """Cases that have or had a task, sorted."""
        return self._table["case_id"]

    def rows(self, case_ids: Iterable[str]) -> dict[str, TaskRecord]:
        """The rows of some cases, by case; absent ones are simply not there."""
        wanted = np.array([case_id.encode() for case_id in case_ids], dtype=np.bytes_)
        places = np.searchsorted(self._ids, wanted)
        inside = places < len(self._ids)
        places = places[inside][self._ids[places[inside]] == wanted[inside]]
        rows = self._table.take(pa.array(places)).to_pylist()
        return {row["case_id"]: TaskRecord.from_row(row) for row in rows}

    def all_rows(self, size: int = 1000) -> Iterable[TaskRecord]:
        """Every row, by case id."""
        for start in range(0, self._table.num_rows, size):
            yield from map(TaskRecord.from_row, self._table.slice(start, size).to_pylist())

    def write(self, records: list[TaskRecord]) -> None:
        """Append rows, all with this moment's time.

        Raises:
            StorageError: the workspace cannot be written.
        """
        now = datetime.now(UTC)
        write_tasks(self._workspace, [row.model_copy(update={"written_at": now}) for row in records])
