"""Rooms of any size are read a range of keys at a time, and the newest row of a key counts."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests.conftest import S3Stack
from tests.fault_proxy import Fault, proxy_before

from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.sorted_rooms import (
    DRAFTS,
    FRAMES,
    INSTANCES,
    KeyRange,
    RoomReader,
    files_of,
    newest,
    ranges_of,
    stream,
    write_sorted,
)
from sonoloop.platform.tables import of_version
from sonoloop.platform.workspace import S3Config, Store

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


def draft(case_id: str, attempts: int | None = 1, **more: str) -> DraftRecord:
    version = {"model_version": "m/1", "prompt_version": "p", "config_hash": "c"}
    values = {"run_id": "r", "status": "draft", **version, **more}
    return DraftRecord(case_id=case_id, attempts=attempts, **values)


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


def test_of_a_case_the_last_attempt_of_each_model_and_prompt_version_counts(workspace: Store) -> None:
    rows = [
        draft("a", 1, status="rejected"),
        draft("a", 1, model_version="m/2"),
        draft("a", 1, prompt_version="q"),
        draft("b", 1),
    ]
    write_sorted(workspace, DRAFTS, rows, "first", "0.parquet")
    write_sorted(workspace, DRAFTS, [draft("a", 2), draft("c", 1)], "again", "0.parquet")
    (table,) = stream(workspace, DRAFTS)
    found = [
        (r["case_id"], r["model_version"], r["prompt_version"], r["attempts"]) for r in table.to_pylist()
    ]
    assert found == [
        ("a", "m/1", "p", 2),
        ("a", "m/1", "q", 1),
        ("a", "m/2", "p", 1),
        ("b", "m/1", "p", 1),
        ("c", "m/1", "p", 1),
    ]
    (table,) = stream(workspace, DRAFTS, where=of_version("m/1", "p"), columns=("status",))
    assert table["case_id"].to_pylist() == ["a", "b", "c"]
    assert table["status"].to_pylist() == ["draft"] * 3


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_rows_of_the_same_attempt_the_draft_counts(workspace: Store, order: tuple[int, int]) -> None:
    rows = [draft("a", 1, status="rejected"), draft("a", 1, findings="f")]
    for name, number in enumerate(order):
        write_sorted(workspace, DRAFTS, [rows[number]], f"{name}.parquet")
    (table,) = stream(workspace, DRAFTS)
    assert table["status"].to_pylist() == ["draft"]


def test_drafts_from_before_attempts_were_counted_are_the_oldest(workspace: Store) -> None:
    added = ["value_probabilities", "report_score", "attempts", "inputs_hash", "unit"]
    old = DraftRecord.table([draft(name, None, run_id="old") for name in "abc"]).drop_columns(added)
    workspace.write_table(old, "drafts", "old", "0.parquet")
    write_sorted(workspace, DRAFTS, [draft("b", 1, run_id="new")], "new", "0.parquet")
    (table,) = stream(workspace, DRAFTS)
    assert table["run_id"].to_pylist() == ["old", "new", "old"]
    assert table["attempts"].to_pylist() == [None, 1, None]
    assert table.schema.names == DraftRecord.ARROW.names


def test_ranges_of_many_small_files_and_of_a_large_one_over_them_hold_every_row_once(
    workspace: Store,
) -> None:
    names = [f"{number:04d}" for number in range(200)]
    for begin in range(0, 200, 4):
        rows = [draft(name) for name in names[begin : begin + 4]]
        write_sorted(workspace, DRAFTS, rows, "one", f"{begin:04d}.parquet")
    write_sorted(workspace, DRAFTS, [draft(name, 2) for name in names[::3]], "two", "0.parquet")
    files = files_of(workspace, DRAFTS)
    ranges = ranges_of(files, 40)
    tables = [newest(workspace, DRAFTS, files, keys) for keys in ranges]
    found = pa.concat_tables(tables)
    assert found["case_id"].to_pylist() == names
    assert found["attempts"].to_pylist() == [1 + (number % 3 == 0) for number in range(200)]
    assert len(ranges) >= 4
    assert max(table.num_rows for table in tables) <= 67 + 40


def test_files_that_a_closing_run_replaces_while_they_are_read_lose_nobody_a_row(workspace: Store) -> None:
    replace = two_small_files(workspace)
    reader = RoomReader(workspace, DRAFTS)
    assert reader.read(KeyRange("a", "b"))["case_id"].to_pylist() == ["a"]
    replace()
    assert reader.read(KeyRange("b", None))["case_id"].to_pylist() == ["b"]
    assert len(reader.files) == 1


@pytest.fixture
def place(stack_s3: S3Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket whose keys this process knows."""
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{stack_s3.bucket()}"


@pytest.mark.parametrize("num_answered", range(3))
def test_a_file_that_goes_between_two_requests_for_it_is_replaced_by_its_successor(
    stack_s3: S3Stack, place: str, num_answered: int
) -> None:
    replace = two_small_files(Store(place))
    with proxy_before(stack_s3.endpoint) as proxy:
        reader = RoomReader(Store(place, S3Config(endpoint_url=proxy.endpoint)), DRAFTS)
        seen = proxy.asked["drafts/r/small-a.parquet"]

        def goes(key: str, times: int) -> Fault | None:
            if (key, times) == ("drafts/r/small-a.parquet", seen + num_answered):
                replace()
            return None

        proxy.fails = goes
        assert reader.read(KeyRange())["case_id"].to_pylist() == ["a", "b"]
        assert proxy.asked["drafts/r/sorted.parquet"]


@pytest.mark.parametrize("num_answered", range(2))
def test_a_file_that_goes_while_footers_are_read_is_left_out(
    stack_s3: S3Stack, place: str, num_answered: int
) -> None:
    replace = two_small_files(Store(place))
    with proxy_before(stack_s3.endpoint) as proxy:

        def goes(key: str, times: int) -> Fault | None:
            if (key, times) == ("drafts/r/small-a.parquet", num_answered):
                replace()
            return None

        proxy.fails = goes
        files = files_of(Store(place, S3Config(endpoint_url=proxy.endpoint)), DRAFTS)
    assert "small-a" not in str(files)


def two_small_files(workspace: Store) -> Callable[[], None]:
    """A room of two small files; the call puts them into one, as the end of a run does."""
    small = [draft("a"), draft("b")]
    for row_ in small:
        write_sorted(workspace, DRAFTS, [row_], "r", f"small-{row_.case_id}.parquet")

    def replace() -> None:
        write_sorted(workspace, DRAFTS, small, "r", "sorted.parquet")
        workspace.remove_paths(workspace.path("drafts", "r", f"small-{name}.parquet") for name in "ab")

    return replace


def test_a_room_whose_files_vanish_for_ever_is_an_error(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sorted(workspace, DRAFTS, [draft("a")], "0.parquet")
    reader = RoomReader(workspace, DRAFTS)
    workspace.remove("drafts", "0.parquet")
    phantom = reader.files
    monkeypatch.setattr("sonoloop.platform.sorted_rooms.files_of", lambda *_: phantom)
    with pytest.raises(StorageError, match="vanish while they are read"):
        reader.read(KeyRange())
