"""Rooms of any size are read a range of keys at a time, and the newest row of a key counts."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.errors import StorageError
from sonoloop.platform.sorted_rooms import (
    FRAMES,
    INSTANCES,
    KeyRange,
    files_of,
    newest,
    ranges_of,
    stream,
    write_sorted,
)
from sonoloop.platform.workspace import Store

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def row(uri: str, hours: int = 0, etag: str = "e") -> InstanceRecord:
    return InstanceRecord(
        instance_id=uri,
        uri=uri,
        etag=etag,
        size_bytes=1,
        status="indexed",
        indexed_at=START + timedelta(hours=hours),
    )


def frame(case_id: str, index: int, hours: int) -> FrameRecord:
    return FrameRecord(
        instance_id="i",
        case_id=case_id,
        frame_index=index,
        status="written",
        rules_version="1",
        prepared_at=START + timedelta(hours=hours),
    )


@pytest.mark.parametrize("max_rows", [1, 7, 50, 10_000])
def test_the_ranges_together_hold_the_newest_row_of_every_key_once(workspace: Store, max_rows: int) -> None:
    rng = random.Random(max_rows)
    expected: dict[str, str] = {}
    for number in range(12):
        names = [f"k{rng.randrange(200):03d}" for _ in range(30)]
        rows = [row(name, number, f"e{number}") for name in dict.fromkeys(names)]
        expected |= {r.uri: r.etag for r in rows}
        write_sorted(workspace, INSTANCES, rows, f"{rng.randrange(10**6)}.parquet")
    files = files_of(workspace, INSTANCES)
    ranges = ranges_of(files, max_rows)
    tables = [newest(workspace, INSTANCES, files, keys) for keys in ranges]
    found = pa.concat_tables(tables).to_pylist()
    assert [r["uri"] for r in found] == sorted(expected)
    assert {r["uri"]: r["etag"] for r in found} == expected
    assert len(ranges) > 1 or max_rows > 50


def test_a_range_reads_only_the_files_that_reach_into_it(workspace: Store) -> None:
    for number in range(5):
        write_sorted(workspace, INSTANCES, [row(f"{number}-{n}") for n in range(9)], f"{number}.parquet")
    files = files_of(workspace, INSTANCES)
    for path in sorted(Path(workspace.root, "instances").iterdir()):
        if path.name != "3.parquet":
            path.write_bytes(b"whoever reads this fails")
    table = newest(workspace, INSTANCES, files, KeyRange("3-2", "3-5"), columns=("etag",))
    assert table["uri"].to_pylist() == ["3-2", "3-3", "3-4"]
    assert set(table.column_names) == {"uri", "etag", "indexed_at"}


def test_all_rows_of_a_keys_newest_time_count_together(workspace: Store) -> None:
    write_sorted(workspace, FRAMES, [frame("a", n, 1) for n in range(3)] + [frame("b", 0, 1)], "1.parquet")
    write_sorted(workspace, FRAMES, [frame("a", n, 2) for n in (7, 8)], "0.parquet")
    (table,) = stream(workspace, FRAMES)
    found = [(r["case_id"], r["frame_index"]) for r in table.to_pylist()]
    assert sorted(found) == [("a", 7), ("a", 8), ("b", 0)]


def test_an_empty_room_is_one_empty_range_with_the_rooms_columns(workspace: Store) -> None:
    (table,) = stream(workspace, INSTANCES)
    assert (table.num_rows, table.schema.names) == (0, InstanceRecord.ARROW.names)


@pytest.mark.parametrize("data", [b"no table", b""])
def test_a_file_that_is_no_table_is_named(workspace: Store, data: bytes) -> None:
    workspace.write_bytes(data, "instances", "broken.parquet")
    with pytest.raises(StorageError, match=r"broken\.parquet is not a table of this version"):
        files_of(workspace, INSTANCES)


def test_a_table_of_another_version_is_named_and_so_is_the_way_out(workspace: Store) -> None:
    older = InstanceRecord.table([row("a")]).drop_columns(["series_key"])
    workspace.write_table(older, "instances", "old.parquet")
    with pytest.raises(StorageError, match=r"old\.parquet .* index again"):
        files_of(workspace, INSTANCES)
