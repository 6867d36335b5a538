"""Which cases share a picture with another one, and how the work on them keeps to one of each.

``DuplicateRecord`` (``duplicates/``), one row per such case; an index run replaces them all:

| column | dtype | meaning |
|---|---|---|
| case_id | string | the case |
| group_key | string | the smallest case id of all cases that are connected by shared pictures |
| distance | int32 | bits between the two most alike hashes that it shares with another case; 0 is the same |
| marked_at | timestamp[us, UTC] | when |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from sonoloop.platform.records import Record
from sonoloop.platform.workspace import Store

_ROOM = "duplicates"


class DuplicateRecord(Record):
    """A case that shares a picture with another one."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("case_id", pa.string()),
            ("group_key", pa.string()),
            ("distance", pa.int32()),
            ("marked_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    case_id: str
    group_key: str = Field(description="smallest case id of the group")
    distance: int = Field(ge=0, description="bits, to the nearest picture of another case")
    marked_at: datetime


def write_duplicates(workspace: Store, records: list[DuplicateRecord]) -> None:
    """Put these in place of all that were marked before.

    Raises:
        StorageError: the workspace cannot be written.
    """
    workspace.write_table(DuplicateRecord.table(records), _ROOM, "marked.parquet")


def read_groups(workspace: Store) -> dict[str, str]:
    """Case id to group key of every marked case; all others stand alone.

    Raises:
        StorageError: the workspace cannot be read.
    """
    table = workspace.read_tables(DuplicateRecord.ARROW, _ROOM)
    return dict(zip(table["case_id"].to_pylist(), table["group_key"].to_pylist(), strict=True))


def read_groups_of(workspace: Store, case_ids: Iterable[str]) -> dict[str, str]:
    """As `read_groups`, only the groups that one of these cases belongs to, with all their members.

    Raises:
        StorageError: the workspace cannot be read.
    """
    table = workspace.read_tables(DuplicateRecord.ARROW, _ROOM)
    of_these = pc.is_in(table["case_id"], value_set=pa.array(sorted(set(case_ids)), pa.string()))
    keys = table["group_key"].filter(of_these).unique()
    table = table.filter(pc.is_in(table["group_key"], value_set=keys))
    return dict(zip(table["case_id"].to_pylist(), table["group_key"].to_pylist(), strict=True))


def one_of_each(case_ids: Iterable[str], groups: Mapping[str, str], taken: Iterable[str | None]) -> list[str]:
    """The cases in their order, of each group only the first, and none where one is taken already.

    Args:
        case_ids: Cases to choose from.
        groups: Of `read_groups`.
        taken: Cases that somebody works on or has worked on.
    """
    seen = {groups[case_id] for case_id in taken if case_id is not None and case_id in groups}
    kept = []
    for case_id in case_ids:
        group = groups.get(case_id, case_id)
        if group not in seen:
            seen.add(group)
            kept.append(case_id)
    return kept
