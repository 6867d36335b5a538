"""Which cases are to be made, and in which portions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.quarantine import Release
from sonoloop.platform.archive.grouping import (
    CHUNKS_AT_LEAST,
    CaseFinder,
    Chunk,
    bucket_ranges,
    split_by_bucket,
)
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.records import CaseRecord, content_id
from sonoloop.platform.sorted_rooms import CASES, INSTANCES, KeyRange, files_of, ranges_of, write_sorted
from sonoloop.platform.workspace import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def row(uri: str, case: str = "c", **more: Any) -> InstanceRecord:
    values = {"instance_id": uri, "etag": "e", "size_bytes": 1, "status": "indexed", "indexed_at": NOW}
    return InstanceRecord.model_validate({**values, "uri": uri, "case_id": case, "patient_key": "p", **more})


def made(chunks: list[Chunk], **more: Any) -> list[CaseRecord]:
    """The cases of some chunks, as if made."""
    return [
        CaseRecord.model_validate(
            {
                "case_id": work.case_id,
                "patient_key": "p",
                "organ_hint": None,
                "scanner": None,
                "images": (),
                "inputs_hash": work.inputs_hash,
                "withdrawn": not work.rows,
                "indexed_at": NOW,
                **more,
            }
        )
        for chunk in chunks
        for work in chunk.work
    ]


def chunks_of(
    workspace: Store,
    rows: list[InstanceRecord],
    config: IndexConfig | None = None,
    *,
    releases: dict[str, Release] | None = None,
    retry: bool = False,
) -> list[Chunk]:
    finder = CaseFinder(workspace, files_of(workspace, CASES), config or IndexConfig(), releases or {}, retry)
    table = InstanceRecord.table(rows).sort_by("case_id")
    return list(finder.chunks(table, KeyRange()))


def stale(chunks: list[Chunk]) -> list[str]:
    return [work.case_id for chunk in chunks for work in chunk.work]


def test_every_instance_reaches_the_one_bucket_of_its_case(workspace: Store) -> None:
    rows = [row(f"u{n:03d}", content_id(str(n % 40))) for n in range(200)]
    rows.append(row("x", status="rejected", reason="truncated"))
    for start in range(0, 201, 20):
        write_sorted(workspace, INSTANCES, rows[start : start + 20], f"{start}.parquet")
    files, buckets = files_of(workspace, INSTANCES), bucket_ranges(6)
    split = [split_by_bucket(workspace, files, keys, buckets) for keys in ranges_of(files, 50)]
    gathered = [[uri for part in split for uri in part[b]["uri"].to_pylist()] for b in range(6)]
    assert sorted(uri for uris in gathered for uri in uris) == sorted(r.uri for r in rows if r.uri != "x")
    case_of = {r.uri: r.case_id for r in rows}
    cases = [{case_of[uri] for uri in uris} for uris in gathered]
    assert sum(map(len, cases)) == 40
    assert sum(map(bool, cases)) == 6


def test_a_case_is_stale_when_its_instances_the_settings_or_the_rules_changed(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row("a", "1"), row("b", "1"), row("c", "2")]
    first = chunks_of(workspace, rows)
    assert sorted(stale(first)) == ["1", "2"]
    write_sorted(workspace, CASES, made(first), "0.parquet")
    assert stale(chunks_of(workspace, rows)) == []
    assert stale(chunks_of(workspace, list(reversed(rows)))) == []
    assert stale(chunks_of(workspace, [*rows, row("d", "2")])) == ["2"]
    assert stale(chunks_of(workspace, [row("a", "1", etag="f"), *rows[1:]])) == ["1"]
    assert sorted(stale(chunks_of(workspace, rows, IndexConfig(key_frames=1)))) == ["1", "2"]
    trusting = IndexConfig(deidentify=DeidentifyConfig(pictures_are_clean=True))
    assert sorted(stale(chunks_of(workspace, rows, trusting))) == ["1", "2"]
    assert stale(chunks_of(workspace, rows, IndexConfig(batch_size=1, requests_at_once=3))) == []
    monkeypatch.setattr("sonoloop.platform.archive.grouping.RULES_VERSION", "next")
    assert sorted(stale(chunks_of(workspace, rows))) == ["1", "2"]


def test_a_release_of_this_very_version_makes_its_case_again_once(workspace: Store) -> None:
    rows = [row("a", "1"), row("c", "2")]
    write_sorted(workspace, CASES, made(chunks_of(workspace, rows)), "0.parquet")
    release = Release(instance_id="a", etag="e", by="x", rules_version="1", at=NOW)
    other = release.model_copy(update={"etag": "another"})
    assert stale(chunks_of(workspace, rows, releases={"a": other})) == []
    again = chunks_of(workspace, rows, releases={"a": release})
    assert stale(again) == ["1"]
    later = datetime(2026, 1, 2, tzinfo=UTC)
    write_sorted(workspace, CASES, made(again, indexed_at=later), "1.parquet")
    assert stale(chunks_of(workspace, rows, releases={"a": release})) == []
    assert stale(chunks_of(workspace, rows)) == ["1"]


def test_a_case_without_instances_is_to_be_withdrawn_once(workspace: Store) -> None:
    rows = [row("a", "1"), row("c", "2")]
    write_sorted(workspace, CASES, made(chunks_of(workspace, rows)), "0.parquet")
    lost = chunks_of(workspace, rows[:1])
    assert [(work.case_id, work.rows) for chunk in lost for work in chunk.work] == [("2", ())]
    later = {"indexed_at": datetime(2026, 1, 2, tzinfo=UTC)}
    write_sorted(workspace, CASES, made(lost, **later), "1.parquet")
    assert stale(chunks_of(workspace, rows[:1])) == []
    assert stale(chunks_of(workspace, rows)) == ["2"]


def test_only_a_replay_takes_cases_some_of_whose_frames_may_be_had_now(workspace: Store) -> None:
    rows = [row("a", "1"), row("c", "2")]
    cases = made(chunks_of(workspace, rows))
    write_sorted(
        workspace, CASES, [cases[0].model_copy(update={"num_retryable": 1}), *cases[1:]], "0.parquet"
    )
    assert stale(chunks_of(workspace, rows)) == []
    assert stale(chunks_of(workspace, rows, retry=True)) == ["1"]


def test_what_stays_is_counted_and_what_is_to_do_comes_in_portions(workspace: Store) -> None:
    rows = [row(f"{case:02d}-{n}", f"{case:02d}") for case in range(30) for n in range(3)]
    kept = [r for r in rows if r.case_id and r.case_id < "05"]
    image = {"image_key": "k", "instance_id": "i", "frame_index": 0, "width": 1, "height": 1}
    config = IndexConfig(batch_size=12, max_images=2)
    cases = made(chunks_of(workspace, kept, config), images=[image, image])
    write_sorted(workspace, CASES, cases, "0.parquet")
    first, *chunks = chunks_of(workspace, rows, config)
    assert (first.work, first.kept_cases, first.kept_images) == ([], 5, 10)
    assert sum(len(chunk.work) for chunk in chunks) == 25
    assert {len(chunk.work) for chunk in chunks[:-1]} == {3}  # 50 frames in 8 portions, two of each case
    assert len(chunks) >= CHUNKS_AT_LEAST


def test_an_instance_stored_twice_counts_once_whatever_the_order(workspace: Store) -> None:
    rows = [row("z-copy", instance_id="a"), row("b"), row("a")]
    (work,) = (w for chunk in chunks_of(workspace, rows) for w in chunk.work)
    assert [instance.uri for instance in work.instances] == ["a", "b"]
    assert [copy.uri for copy in work.copies("a")] == ["a", "z-copy"]
