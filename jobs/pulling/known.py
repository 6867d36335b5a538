"""The annotations of a project that the workspace has rows of, in a few sorted arrays.

25 bytes a row, whatever the reviews say: a pull can be asked about a million of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sonoloop.platform.records import ReviewRecord
from sonoloop.platform.workspace import Store

_COLUMNS = pa.schema(
    [
        ReviewRecord.ARROW.field(name)
        for name in ("annotation_id", "updated_at", "task_id", "deleted", "project")
    ]
)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """Rows by annotation and time (``ids``, ``times``), and those that stand, by task (``tasks``, ``live``).

    Times are microseconds since 1970, UTC.
    """

    ids: Integers
    times: Integers
    tasks: Integers
    live: Integers

    @classmethod
    def read(cls, workspace: Store, project: str) -> Known:
        """What the workspace has of a project.

        Args:
            workspace: Where ``reviews/`` lies.
            project: `sonoloop.platform.tasks.project_key`.

        Raises:
            StorageError: the workspace cannot be read.
        """
        table = workspace.read_tables(_COLUMNS, "reviews")
        table = table.filter(pc.fill_null(pc.equal(table["project"], project), False))
        table = table.sort_by([("annotation_id", "ascending"), ("updated_at", "ascending")])
        ids, times, tasks = (_integers(table[name]) for name in ("annotation_id", "updated_at", "task_id"))
        deleted = pc.fill_null(table["deleted"], False).to_numpy()
        newest = np.append(ids[1:] != ids[:-1], True) if len(ids) else np.zeros(0, bool)
        stands = newest & ~deleted
        order = np.argsort(tasks[stands], kind="stable")
        return cls(ids, times, tasks[stands][order], ids[stands][order])

    def has(self, annotation_id: int, updated_at: datetime) -> bool:
        """Whether there is a row of this annotation as it was at that time."""
        start, stop = np.searchsorted(self.ids, (annotation_id, annotation_id + 1))
        return bool(np.isin(_micros(updated_at), self.times[start:stop]))

    def live_of(self, task_id: int) -> list[int]:
        """The annotations of a task that stand."""
        start, stop = np.searchsorted(self.tasks, (task_id, task_id + 1))
        return [int(number) for number in self.live[start:stop]]

    def live_counts(self) -> Iterator[tuple[int, int]]:
        """Each task with annotations that stand, by ascending id, and how many."""
        tasks, counts = np.unique(self.tasks, return_counts=True)
        return zip(tasks.tolist(), counts.tolist(), strict=True)


def _integers(column: Any) -> Integers:
    numbers: Integers = column.cast(pa.int64()).to_numpy()
    return numbers


def _micros(time: datetime) -> int:
    return int(pa.scalar(time, pa.timestamp("us", tz="UTC")).value)
