"""A run's input: cases cut into units once, read back a part at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from sonoloop.jobs.annotating import units
from sonoloop.jobs.annotating.units import (
    InputParts,
    UnitCase,
    drop_attempted,
    in_batches,
    part_of,
    read_part,
    write_units,
)
from sonoloop.platform.errors import StorageError
from sonoloop.platform.sorted_rooms import KeyRange
from sonoloop.platform.workspace import Store


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two units to a part, so that a few cases are several parts."""
    monkeypatch.setattr(units, "UNITS_PER_PART", 2)
    return Store(str(tmp_path))


def case(number: int, attempts: int = 0) -> UnitCase:
    return UnitCase(f"case-{number:02d}", "liver", (f"images/{number}.png", "images/x.png"), "h", attempts)


def cases_of(part: pa.Table) -> list[list[UnitCase]]:
    return [[UnitCase.from_row(row) for row in cases] for cases in part["cases"].to_pylist()]


def test_cases_are_cut_into_units_in_their_order_and_read_back_as_they_were(workspace: Store) -> None:
    cases = [case(number) for number in range(14)]
    assert write_units(workspace, "run", iter(cases), cases_per_unit=3) == 14
    inputs = InputParts(workspace, "run")
    assert inputs.num_cases == 14
    parts = [read_part(workspace, file) for file in inputs.files]
    assert [part["unit"].to_pylist() for part in parts] == [[0, 1], [2, 3], [4]]
    read = [unit for part in parts for unit in cases_of(part)]
    assert [len(unit) for unit in read] == [3, 3, 3, 3, 2]
    assert [one for unit in read for one in unit] == cases


def test_the_same_cases_are_the_same_bytes(workspace: Store) -> None:
    for run_id in ("one", "two"):
        write_units(workspace, run_id, map(case, range(9)), cases_per_unit=2)
    for number in range(3):
        same = {workspace.read_bytes(*part_of(run_id, number)) for run_id in ("one", "two")}
        assert len(same) == 1


def test_a_footer_tells_the_first_and_the_last_case_of_a_part(workspace: Store) -> None:
    write_units(workspace, "run", map(case, range(14)), cases_per_unit=3)
    found = [(file.first, file.last, file.num_rows) for file in InputParts(workspace, "run").files]
    assert found == [("case-00", "case-05", 6), ("case-06", "case-11", 6), ("case-12", "case-13", 2)]


def test_the_cases_of_a_range_come_from_the_parts_that_reach_into_it(workspace: Store) -> None:
    write_units(workspace, "run", map(case, range(14)), cases_per_unit=3)
    inputs = InputParts(workspace, "run")
    workspace.write_bytes(b"whoever reads this fails", *part_of("run", 0))
    assert inputs.case_ids(KeyRange("case-06", "case-07")).to_pylist() == [
        f"case-{n:02d}" for n in range(6, 12)
    ]
    assert inputs.case_ids(KeyRange("case-12", None)).to_pylist() == ["case-12", "case-13"]
    assert inputs.case_ids(KeyRange("x", None)).to_pylist() == []
    with pytest.raises(StorageError):
        inputs.case_ids(KeyRange())


def test_no_cases_are_no_input(workspace: Store) -> None:
    assert write_units(workspace, "run", [], cases_per_unit=3) == 0
    assert InputParts(workspace, "run").files == ()


def test_cases_tried_again_meanwhile_leave_their_unit_and_the_others_keep_their_numbers(
    workspace: Store,
) -> None:
    write_units(
        workspace,
        "run",
        [case(0), case(1), case(2, 1), case(3, 1), *map(case, range(4, 8))],
        cases_per_unit=2,
    )
    first, second = InputParts(workspace, "run").files
    later = {"case-00": 1, "case-02": 1, "case-03": 2, **{f"case-{n:02d}": 1 for n in range(4, 8)}}
    assert drop_attempted(workspace, first, read_part(workspace, first), later) == 2
    assert drop_attempted(workspace, second, read_part(workspace, second), later) == 4
    (left,) = InputParts(workspace, "run").files
    part = read_part(workspace, left)
    assert part["unit"].to_pylist() == [0, 1]
    assert [[one.case_id for one in unit] for unit in cases_of(part)] == [["case-01"], ["case-02"]]
    assert drop_attempted(workspace, left, part, later) == 0


def test_batches_are_full_but_for_the_last() -> None:
    assert list(in_batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches([], 3)) == []
