"""Units: the cases that one call of the engine takes together, fixed when a run is planned.

A unit is the grain of everything: what a task fetches and prepares, what an actor drafts, what becomes
durable at once, what a crash loses. Its cases are drafted together whenever and wherever it runs, so that a
disturbed run writes the same bytes as an undisturbed one: in float32 the last bits of a probability depend on
the other rows of a batch.

``runs/<run_id>/input/part-<number>.parquet``: units in the order of their cases, one row per unit.

| column | dtype | meaning |
|---|---|---|
| unit | int64 | number of the unit in the run, from 0; what Ray Data's checkpoint knows it by |
| cases | list of struct | its cases, in the order of their ids, as `UnitCase` |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sonoloop.platform.lexicon import Organ
from sonoloop.platform.sorted_rooms import FOOTERS_AT_ONCE, KeyRange, SortedFile
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store

T = TypeVar("T")

UNITS_PER_PART = 256

CASE = pa.struct(
    [
        ("case_id", pa.string()),
        ("organ_hint", pa.string()),
        ("image_keys", pa.list_(pa.string())),
        ("inputs_hash", pa.string()),
        ("attempts", pa.int32()),
    ]
)
UNITS = pa.schema([("unit", pa.int64()), ("cases", pa.list_(CASE))])


@dataclass(frozen=True, slots=True)
class UnitCase:
    """A case as the pipeline needs it.

    Attributes:
        case_id: The case.
        organ_hint: The organ where the header names one.
        image_keys: Workspace keys of all its key frames, in reading order.
        inputs_hash: Of what the case was made from; None for cases of older versions.
        attempts: Tries at it by this model and prompt version before this run.
    """

    case_id: str
    organ_hint: Organ | None
    image_keys: tuple[str, ...]
    inputs_hash: str | None
    attempts: int

    def row(self) -> dict[str, Any]:
        """The case as a value of `CASE`."""
        return {name: getattr(self, name) for name in CASE.names}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """From a value of `CASE`."""
        return cls(**{**row, "image_keys": tuple(row["image_keys"])})


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items each, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def write_units(workspace: Store, run_id: str, cases: Iterable[UnitCase], *, cases_per_unit: int) -> int:
    """Cut cases into units and write them as the run's input, a part at a time; returns how many cases."""
    num_cases = 0
    units = enumerate(in_batches(cases, cases_per_unit))
    for number, part in enumerate(in_batches(units, UNITS_PER_PART)):
        rows = [{"unit": unit, "cases": [case.row() for case in held]} for unit, held in part]
        num_cases += sum(len(held) for _, held in part)
        workspace.write_table(pa.Table.from_pylist(rows, schema=UNITS), *part_of(run_id, number))
    return num_cases


def part_of(run_id: str, number: int) -> tuple[str, ...]:
    """Where a part of a run's input lies."""
    return ("runs", run_id, "input", f"part-{number:06d}.parquet")


def read_part(workspace: Store, file: SortedFile) -> pa.Table:
    """One part of a run's input, without a look at the others: rows of `UNITS`.

    Raises:
        StorageError: the store refuses, or the file is no input of this version.
    """
    return workspace.read_table(UNITS, file.path)


def case_ids_of(part: pa.Table) -> pa.ChunkedArray:
    """The case ids of a part of the input, in order."""
    return pc.struct_field(pc.list_flatten(part["cases"]), "case_id")


class InputParts:
    """The parts of a run's input and the cases that each of them reaches from and to.

    Args:
        workspace: Where the run is.
        run_id: The run.

    Raises:
        StorageError: the store refuses, or a file is no input of this version.
    """

    def __init__(self, workspace: Store, run_id: str) -> None:
        self._workspace = workspace
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            self.files = tuple(pool.map(self._footer, workspace.table_paths("runs", run_id, "input")))

    @property
    def num_cases(self) -> int:
        """Cases of the whole run."""
        return sum(file.num_rows for file in self.files)

    def case_ids(self, keys: KeyRange) -> pa.Array:
        """The run's cases in a range of case ids, from the parts that reach into it."""
        parts = [case_ids_of(read_part(self._workspace, file)) for file in self.files if file.reaches(keys)]
        return pa.chunked_array(parts, pa.string()).combine_chunks()

    def _footer(self, path: str) -> SortedFile:
        with storage_errors(self._workspace.uri):
            footer = pq.read_metadata(path, filesystem=self._workspace.fs)
        group = footer.row_group(0)
        leaves = {group.column(index).path_in_schema: index for index in range(group.num_columns)}
        column = group.column(leaves["cases.list.element.case_id"])
        return SortedFile(path, column.statistics.min, column.statistics.max, column.num_values)


def drop_attempted(workspace: Store, file: SortedFile, part: pa.Table, attempts: Mapping[str, int]) -> int:
    """Write a part of the input anew without cases that were tried again since; returns how many went.

    Units keep their numbers; one without cases is left out, and so is a part without units.

    Args:
        workspace: Where the run is.
        file: The part.
        part: Its rows.
        attempts: Case id -> tries by now; a case with more than when the run was planned goes.
    """
    rows = part.to_pylist()
    kept = [
        {**row, "cases": [c for c in row["cases"] if attempts.get(c["case_id"], 0) <= c["attempts"]]}
        for row in rows
    ]
    num_gone = sum(len(row["cases"]) for row in rows) - sum(len(row["cases"]) for row in kept)
    alive = [row for row in kept if row["cases"]]
    place = ("runs", *file.path.split("/")[-3:])
    if num_gone and alive:
        workspace.write_table(pa.Table.from_pylist(alive, schema=UNITS), *place)
    elif num_gone:
        workspace.remove(*place)
    return num_gone
