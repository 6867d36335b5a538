"""Rooms too large to be held: their files are sorted by a key, and read one range of keys at a time.

Each Parquet file of such a room is sorted by the room's key, and its footer says which keys it holds. A range
is read from the files that reach into it, so work on a room spreads over tasks and none of them, nor the
driver, ever holds more than a range. A newer row of a key replaces the older ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import CaseRecord, Record
from sonoloop.platform.workspace import Store, storage_errors

ROWS_PER_RANGE = 50_000
FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Room:
    """A room's name, its rows, the key that its files are sorted by and the time that says which row counts.

    ``one_per_key``: a key has one row; otherwise all rows of a key's newest time count together.
    """

    name: str
    record: type[Record]
    key: str
    time: str
    one_per_key: bool = True


INSTANCES = Room("instances", InstanceRecord, "uri", "indexed_at")
CASES = Room("cases", CaseRecord, "case_id", "indexed_at")
FRAMES = Room("frames", FrameRecord, "case_id", "prepared_at", one_per_key=False)


@dataclass(frozen=True)
class KeyRange:
    """Keys from ``low`` up to, and without, ``high``; ``None`` is open."""

    low: str | None = None
    high: str | None = None


@dataclass(frozen=True)
class SortedFile:
    """A file and the keys it reaches from and to, both inside; the empty file reaches nowhere."""

    path: str
    first: str
    last: str
    num_rows: int


def write_sorted(workspace: Store, room: Room, records: Sequence[Record], *parts: str) -> None:
    """Write rows as one file of the room, whole or not at all."""
    table = room.record.table(list(records)).sort_by(room.key)
    workspace.write_table(table, room.name, *parts)


def files_of(workspace: Store, room: Room) -> tuple[SortedFile, ...]:
    """The room's files, from their footers.

    Raises:
        StorageError: the store refuses, or a file is no table of this version.
    """
    paths = workspace.table_paths(room.name)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return tuple(pool.map(lambda path: _footer(workspace, room, path), paths))


def _footer(workspace: Store, room: Room, path: str) -> SortedFile:
    with storage_errors(workspace.uri):
        try:
            footer = pq.read_metadata(path, filesystem=workspace.fs)
        except pa.ArrowInvalid:
            footer = None
    if footer is None or set(room.record.ARROW.names) != set(footer.schema.to_arrow_schema().names):
        raise StorageError(
            f"{path} is not a table of this version of sonoloop; move it away, or move the whole room "
            f"{room.name}/ away and index again"
        )
    column = footer.schema.to_arrow_schema().get_field_index(room.key)
    found = [footer.row_group(group).column(column).statistics for group in range(footer.num_row_groups)]
    if not all(found):
        return SortedFile(path, "", chr(0x10FFFF), footer.num_rows)
    keys = [key for statistics in found for key in (statistics.min, statistics.max)]
    return SortedFile(path, min(keys, default=""), max(keys, default=""), footer.num_rows)


def ranges_of(files: Sequence[SortedFile], max_rows: int = ROWS_PER_RANGE) -> list[KeyRange]:
    """Ranges that cover all keys, each of about ``max_rows`` rows at most."""
    edges: list[str | None] = [None]
    gathered = 0
    for file in sorted(files, key=lambda file: file.first):
        if gathered and gathered + file.num_rows > max_rows and file.first != edges[-1]:
            edges.append(file.first)
            gathered = 0
        gathered += file.num_rows
    return [KeyRange(low, high) for low, high in zip(edges, [*edges[1:], None], strict=True)]


def newest(
    workspace: Store,
    room: Room,
    files: Sequence[SortedFile],
    keys: KeyRange,
    *,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """The rows that count in a range of keys, sorted by key.

    Args:
        workspace: Where the room is.
        room: The room.
        files: All its files, of `files_of`.
        keys: The range.
        columns: Only these; the room's key and time are always among them.

    Raises:
        StorageError: the store refuses.
    """
    schema = room.record.ARROW
    names = [n for n in schema.names if columns is None or n in {*columns, room.key, room.time}]
    reaching = [f.path for f in files if _reaches(f, keys)]
    if not reaching:
        return pa.schema([schema.field(name) for name in names]).empty_table()
    with storage_errors(workspace.uri):
        dataset = ds.dataset(reaching, schema=schema, filesystem=workspace.fs, format="parquet")
        table = dataset.to_table(columns=names, filter=_within(room.key, keys))
    return _only_newest(table, room)


def stream(workspace: Store, room: Room, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All rows of the room that count, a range at a time."""
    files = files_of(workspace, room)
    for keys in ranges_of(files):
        yield newest(workspace, room, files, keys, columns=columns)


def _reaches(file: SortedFile, keys: KeyRange) -> bool:
    above = keys.low is None or file.last >= keys.low
    return bool(file.num_rows) and above and (keys.high is None or file.first < keys.high)


def _within(key: str, keys: KeyRange) -> ds.Expression | None:
    low = None if keys.low is None else ds.field(key) >= keys.low
    high = None if keys.high is None else ds.field(key) < keys.high
    return low & high if low is not None and high is not None else (high if low is None else low)


def _only_newest(table: pa.Table, room: Room) -> pa.Table:
    if not table.num_rows:
        return table
    table = table.sort_by([(room.key, "ascending"), (room.time, "ascending")]).combine_chunks()
    keys = table[room.key]
    is_last = np.append(pc.not_equal(keys[:-1], keys[1:]).to_numpy(), True)
    if room.one_per_key:
        return table.filter(pa.array(is_last))
    times = table[room.time].cast(pa.int64()).to_numpy()
    ends = np.flatnonzero(is_last)
    newest_time = times[ends][np.searchsorted(ends, np.arange(len(times)))]
    return table.filter(pa.array(times == newest_time))
