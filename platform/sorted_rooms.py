"""Rooms too large to be held: their files are sorted by a key, and read one range of keys at a time.

Each Parquet file of such a room is sorted by the room's key, and its footer says which keys it holds. A range
is read from the files that reach into it, so work on a room spreads over tasks and none of them, nor the
driver, ever holds more than a range. A newer row of a key replaces the older ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.columns import is_added
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import CaseRecord, DraftRecord, Record
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

ROWS_PER_RANGE = 50_000
FOOTERS_AT_ONCE = 16
ATTEMPTS_TO_READ = 5
"""Of a range whose files are replaced by a run that ends meanwhile."""


@dataclass(frozen=True)
class Room:
    """A room: its name, its rows, the key that its files are sorted by and what says which row counts.

    ``time`` grows with every newer row of a key. ``one_per_key``: a key has one row; otherwise all rows of a
    key's newest time count together. ``also`` names further columns of the key, by which no file is sorted,
    ``ties`` what decides between rows of the same time: of the order given, the last one counts.
    """

    name: str
    record: type[Record]
    key: str
    time: str
    one_per_key: bool = True
    also: tuple[str, ...] = ()
    ties: tuple[tuple[str, Literal["ascending", "descending"]], ...] = ()


INSTANCES = Room("instances", InstanceRecord, "uri", "indexed_at")
CASES = Room("cases", CaseRecord, "case_id", "indexed_at")
FRAMES = Room("frames", FrameRecord, "case_id", "prepared_at", one_per_key=False)
_VERSION = ("model_version", "prompt_version")
DRAFTS = Room("drafts", DraftRecord, "case_id", "attempts", also=_VERSION, ties=(("status", "descending"),))


@dataclass(frozen=True)
class KeyRange:
    """Keys from ``low`` up to, and without, ``high``; ``None`` is open."""

    low: str | None = None
    high: str | None = None


@dataclass(frozen=True, slots=True)
class SortedFile:
    """A file and the keys it reaches from and to, both inside; the empty file reaches nowhere."""

    path: str
    first: str
    last: str
    num_rows: int

    def reaches(self, keys: KeyRange) -> bool:
        """Whether it may hold rows of a range."""
        above = keys.low is None or self.last >= keys.low
        return bool(self.num_rows) and above and (keys.high is None or self.first < keys.high)


def write_sorted(workspace: Store, room: Room, records: Sequence[Record], *parts: str) -> None:
    """Write rows as one file of the room, whole or not at all."""
    table = room.record.table(list(records)).sort_by(room.key)
    workspace.write_table(table, room.name, *parts)


def files_of(workspace: Store, room: Room, *parts: str) -> tuple[SortedFile, ...]:
    """The room's files, or those below one of its folders, from their footers.

    Raises:
        StorageError: the store refuses, or a file is no table of this version.
    """
    paths = workspace.table_paths(room.name, *parts)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        found = pool.map(lambda path: _footer(workspace, room, path), paths)
        return tuple(file for file in found if file is not None)


def _footer(workspace: Store, room: Room, path: str) -> SortedFile | None:
    """What the file's footer says; ``None`` for a file that is gone since it was listed."""
    try:
        with storage_errors(workspace.uri):
            schema, footer = _schema_and_footer(workspace, path)
    except FileNotFoundError:
        return None
    if footer is None or not _is_of(room, schema):
        raise StorageError(
            f"{path} is not a table of this version of sonoloop; move it away, or move the whole room "
            f"{room.name}/ away and index again"
        )
    column = schema.get_field_index(room.key)
    found = [footer.row_group(group).column(column).statistics for group in range(footer.num_row_groups)]
    if not all(found):
        return SortedFile(path, "", chr(0x10FFFF), footer.num_rows)
    keys = [key for statistics in found for key in (statistics.min, statistics.max)]
    return SortedFile(path, min(keys, default=""), max(keys, default=""), footer.num_rows)


def _schema_and_footer(workspace: Store, path: str) -> tuple[pa.Schema, pq.FileMetaData | None]:
    """Of a Parquet file; no footer where it is none."""
    try:
        with pq.ParquetFile(path, filesystem=workspace.fs) as file:
            # Not footer.schema: it refers back to the footer, and thousands of them wait for the collector.
            return file.schema_arrow, file.metadata
    except pa.ArrowInvalid:
        return pa.schema([]), None


def _is_of(room: Room, found: pa.Schema) -> bool:
    """Whether a file has the room's columns, those apart that older files may lack."""
    missing = [field for field in room.record.ARROW if field.name not in found.names]
    return set(found.names) <= set(room.record.ARROW.names) and all(map(is_added, missing))


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
    where: ds.Expression | None = None,
) -> pa.Table:
    """The rows that count in a range of keys, sorted by key.

    Args:
        workspace: Where the room is.
        room: The room.
        files: All its files, of `files_of`.
        keys: The range.
        columns: Only these; the room's key and time are always among them.
        where: Only rows of these versions; a condition on columns of the key.

    Raises:
        StorageError: the store refuses.
        FileNotFoundError: a file is gone since `files_of`; `stream` asks again.
    """
    schema = room.record.ARROW
    always = {room.key, *room.also, room.time, *(name for name, _ in room.ties)}
    names = [name for name in schema.names if columns is None or name in always or name in columns]
    reaching = [file.path for file in files if file.reaches(keys)]
    if not reaching:
        return pa.schema([schema.field(name) for name in names]).empty_table()
    with storage_errors(workspace.uri):
        dataset = ds.dataset(reaching, schema=schema, filesystem=workspace.fs, format="parquet")
        table = dataset.to_table(columns=names, filter=_both(_within(room.key, keys), where))
    return _only_newest(table, room)


def stream(
    workspace: Store,
    room: Room,
    *,
    columns: Sequence[str] | None = None,
    where: ds.Expression | None = None,
) -> Iterator[pa.Table]:
    """All rows of the room that count, a range at a time; arguments as of `newest`."""
    reader = RoomReader(workspace, room, columns=columns, where=where)
    for keys in ranges_of(reader.files):
        yield reader.read(keys)


class RoomReader:
    """Reads ranges of a room in which a run that ends may replace small files by large ones meanwhile.

    Arguments as of `newest`.
    """

    def __init__(
        self,
        workspace: Store,
        room: Room,
        *parts: str,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
    ) -> None:
        self._workspace, self._room, self._parts = workspace, room, parts
        self._columns, self._where = columns, where
        self.files = files_of(workspace, room, *parts)

    def read(self, keys: KeyRange, where: ds.Expression | None = None) -> pa.Table:
        """The rows that count in a range of keys, ``where`` narrowing the reader's own condition.

        Raises:
            StorageError: the store refuses, or files vanish faster than they can be read.
        """
        for _ in range(ATTEMPTS_TO_READ):
            try:
                both = _both(self._where, where)
                return newest(
                    self._workspace, self._room, self.files, keys, columns=self._columns, where=both
                )
            except FileNotFoundError:
                logger.info("files of %s were replaced; listing them again", self._room.name)
                self.files = files_of(self._workspace, self._room, *self._parts)
        raise StorageError(
            f"files of {self._room.name}/ vanish while they are read; see that nobody deletes them"
        )


def _within(key: str, keys: KeyRange) -> ds.Expression | None:
    low = None if keys.low is None else ds.field(key) >= keys.low
    high = None if keys.high is None else ds.field(key) < keys.high
    return _both(low, high)


def _both(one: ds.Expression | None, other: ds.Expression | None) -> ds.Expression | None:
    return one & other if one is not None and other is not None else (other if one is None else one)


def _only_newest(table: pa.Table, room: Room) -> pa.Table:
    if not table.num_rows:
        return table
    key = (room.key, *room.also)
    order = [*((name, "ascending") for name in (*key, room.time)), *room.ties]
    times = table[room.time]
    if times.null_count:  # of rows from before the column was there: the oldest
        times = pc.fill_null(times, 0)
    by = table.set_column(table.column_names.index(room.time), room.time, times)
    table = table.take(pc.sort_indices(by, sort_keys=order)).combine_chunks()
    is_last = np.ones(table.num_rows, dtype=bool)
    is_last[:-1] = False
    for name in key:
        is_last[:-1] |= pc.not_equal(table[name][:-1], table[name][1:]).to_numpy()
    if room.one_per_key:
        return table.filter(pa.array(is_last))
    times = table[room.time].cast(pa.int64()).to_numpy()
    ends = np.flatnonzero(is_last)
    newest_time = times[ends][np.searchsorted(ends, np.arange(len(times)))]
    return table.filter(pa.array(times == newest_time))
