"""The end of a run: every case came out once, and many small files become few sorted ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sonoloop.jobs.annotating import units
from sonoloop.jobs.annotating.closing import RunCounts, close_run, forget_checkpoint
from sonoloop.jobs.annotating.units import UnitCase, write_units
from sonoloop.platform.errors import CountError, Reason
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.sorted_rooms import DRAFTS, KeyRange, RoomReader, stream, write_sorted
from sonoloop.platform.workspace import Store

pytestmark = pytest.mark.ray
NUM_CASES, CASES_PER_UNIT, UNITS_PER_PART = 20, 2, 4
NUM_PARTS = 3
NAMES = [f"case-{number:02d}" for number in range(NUM_CASES)]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: str) -> Store:
    """A run of ten units in three parts, each drafted into a file of its own; case 7 was rejected."""
    monkeypatch.setattr(units, "UNITS_PER_PART", UNITS_PER_PART)
    store = Store(str(tmp_path))
    cases = (UnitCase(name, None, (), None, 0) for name in NAMES)
    write_units(store, "run", cases, cases_per_unit=CASES_PER_UNIT)
    for unit in range(NUM_CASES // CASES_PER_UNIT):
        rows = [row(number) for number in range(CASES_PER_UNIT * unit, CASES_PER_UNIT * (unit + 1))]
        write_sorted(store, DRAFTS, rows, "run", f"{unit}.parquet")
        store.write_bytes(b"", "runs", "run", "checkpoint", f"{unit}.parquet")
    return store


def row(number: int, *, attempts: int = 1, run_id: str = "run") -> DraftRecord:
    outcome = (
        {"status": "rejected", "stage": "draft", "reason": Reason.INVALID_OUTPUT}
        if number == 7
        else {"status": "draft", "findings": f"of {number}", "num_tokens": 10}
    )
    return DraftRecord(
        case_id=NAMES[number],
        run_id=run_id,
        model_version="m/1",
        prompt_version="p",
        config_hash="c",
        attempts=attempts,
        unit=number // CASES_PER_UNIT,
        **outcome,  # type: ignore[arg-type]
    )


def rows_of(workspace: Store) -> pa.Table:
    (table,) = stream(workspace, DRAFTS)
    return table


def files_in(workspace: Store) -> list[str]:
    return sorted(path.name for path in Path(workspace.root, "drafts", "run").iterdir())


SORTED = [f"sorted-{number:06d}.parquet" for number in range(NUM_PARTS)]


def test_a_closed_run_has_the_same_rows_in_one_sorted_file_per_part_of_its_input(workspace: Store) -> None:
    before = rows_of(workspace)
    counts = close_run(workspace, "run")
    reasons = Counter({"invalid-output": 1})
    assert counts == RunCounts(cases=20, drafted=19, rejected=1, reasons=reasons, num_tokens=190)
    assert files_in(workspace) == SORTED
    assert rows_of(workspace).equals(before)
    for name in SORTED:
        ids = pq.read_table(workspace.path("drafts", "run", name))["case_id"].to_pylist()
        assert ids == sorted(ids)


def test_what_was_read_before_is_still_read_after_the_run_was_closed(workspace: Store) -> None:
    reader = RoomReader(workspace, DRAFTS, "run")
    close_run(workspace, "run")
    assert reader.read(KeyRange())["case_id"].to_pylist() == NAMES


@pytest.mark.parametrize(("num_written", "num_removed"), [(0, 0), (1, 0), (2, 0), (3, 0), (3, 4), (3, 9)])
def test_a_close_that_was_interrupted_anywhere_is_done_again_to_the_same_bytes(
    workspace: Store, num_written: int, num_removed: int
) -> None:
    """Small files go only when all sorted ones are there."""
    small = {name: workspace.read_bytes("drafts", "run", name) for name in files_in(workspace)}
    close_run(workspace, "run")
    done = {name: workspace.read_bytes("drafts", "run", name) for name in files_in(workspace)}
    for name in SORTED[num_written:]:
        workspace.remove("drafts", "run", name)
    for name in list(small)[num_removed:]:
        workspace.write_bytes(small[name], "drafts", "run", name)

    assert close_run(workspace, "run").cases == NUM_CASES

    assert {name: workspace.read_bytes("drafts", "run", name) for name in files_in(workspace)} == done


def test_a_closed_run_can_be_closed_again(workspace: Store) -> None:
    once = close_run(workspace, "run")
    assert close_run(workspace, "run") == once
    assert files_in(workspace) == SORTED


def test_a_missing_case_is_an_error_and_no_file_is_removed(workspace: Store) -> None:
    workspace.remove("drafts", "run", "4.parquet")
    with pytest.raises(CountError, match="8 cases in, 6 different cases in 6 rows out; run the same command"):
        close_run(workspace, "run")
    assert set(files_in(workspace)) >= {f"{unit}.parquet" for unit in range(10) if unit != 4}


def test_rows_of_two_attempts_at_a_unit_count_once(workspace: Store) -> None:
    write_sorted(workspace, DRAFTS, [row(8), row(9)], "run", "again.parquet")
    assert close_run(workspace, "run").cases == NUM_CASES
    assert rows_of(workspace)["case_id"].to_pylist() == NAMES


def test_other_runs_stay_as_they_are(workspace: Store) -> None:
    write_sorted(workspace, DRAFTS, [row(7, attempts=2, run_id="other")], "other", "0.parquet")
    kept = workspace.read_bytes("drafts", "other", "0.parquet")
    assert close_run(workspace, "run").rejected == 1
    assert workspace.read_bytes("drafts", "other", "0.parquet") == kept
    assert rows_of(workspace)["attempts"].to_pylist()[7] == 2


def test_the_checkpoint_goes_when_the_run_is_finished(workspace: Store) -> None:
    close_run(workspace, "run")
    assert Path(workspace.path("runs", "run", "checkpoint")).exists()
    forget_checkpoint(workspace, "run")
    forget_checkpoint(workspace, "run")
    assert not Path(workspace.path("runs", "run", "checkpoint")).exists()
