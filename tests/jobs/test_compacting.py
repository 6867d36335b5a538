"""A room's many small files become few, and what the room says stays the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sonoloop.jobs.indexing import compacting
from sonoloop.jobs.indexing.compacting import FILES_PER_RANGE, compact
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.sorted_rooms import CASES, files_of, stream, write_sorted
from sonoloop.platform.tables import read_cases
from sonoloop.platform.workspace import Store

pytestmark = pytest.mark.ray
START = datetime(2026, 1, 1, tzinfo=UTC)


def case(number: int, hours: int = 0, *, withdrawn: bool = False) -> CaseRecord:
    return CaseRecord(
        case_id=f"case-{number:04d}",
        patient_key="p",
        organ_hint=None,
        scanner=str(hours),
        images=(),
        withdrawn=withdrawn,
        indexed_at=START + timedelta(hours=hours),
    )


@pytest.fixture
def workspace(tmp_path: Path, ray_cluster: str) -> Store:
    """Two hundred files: each case twice, some withdrawn."""
    store = Store(str(tmp_path))
    for number in range(100):
        write_sorted(store, CASES, [case(number), case(number + 100)], "first", f"{number}.parquet")
        newer = [case(number, 1, withdrawn=number % 10 == 0), case(number + 100, 1)]
        write_sorted(store, CASES, newer, "second", f"{number}.parquet")
    return store


def test_the_newest_row_of_every_case_is_kept_in_few_files_and_done_again_it_changes_nothing(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_cases(workspace)
    assert len(before) == 190
    assert compact(workspace, CASES) == 1
    assert read_cases(workspace) == before
    assert sum(table.num_rows for table in stream(workspace, CASES)) == 200
    (file,) = files_of(workspace, CASES)
    assert compact(workspace, CASES) == 1
    assert files_of(workspace, CASES) == (file,)
    monkeypatch.setattr(compacting, "FILES_PER_RANGE", 1)
    assert compact(workspace, CASES) == 1
    assert read_cases(workspace) == before


def test_killed_before_the_old_files_are_gone_it_is_done_again(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_cases(workspace)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove_paths", _killed)
        with pytest.raises(KeyboardInterrupt):
            compact(workspace, CASES)
    assert read_cases(workspace) == before
    assert len(files_of(workspace, CASES)) == 201
    compact(workspace, CASES)
    assert read_cases(workspace) == before
    assert len(files_of(workspace, CASES)) == 1


def test_few_files_are_left_as_they_are(tmp_path: Path, ray_cluster: str) -> None:
    store = Store(str(tmp_path))
    for number in range(FILES_PER_RANGE - 1):
        write_sorted(store, CASES, [case(number)], f"{number}.parquet")
    assert compact(store, CASES) == FILES_PER_RANGE - 1


def _killed(*_: object) -> None:
    raise KeyboardInterrupt
