"""The parts of an export: which cases, their results, and units spread over the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray
from pydantic import BaseModel

from sonoloop.jobs.config import Config
from sonoloop.jobs.progress import counted
from sonoloop.jobs.runs import read_runs
from sonoloop.platform import registry
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.errors import ConfigError, NothingToDoError, RejectedError
from sonoloop.platform.export.results import Rejection, Result, result_of
from sonoloop.platform.records import CaseRecord, DraftRecord
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, INSTANCES, RoomReader, ranges_of, stream
from sonoloop.platform.tables import current_reviews, of_version
from sonoloop.platform.workspace import Store

U = TypeVar("U", bound=BaseModel)

UNITS_PER_TASK = 8
CASES_AT_ONCE = 1000
"""Of a range: so many are records, the others columns."""


@dataclass
class Tally:
    """What became of the units; rejections go to their file as they come."""

    rejected_file: BinaryIO
    written: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def count(self, status: str, rejection: Rejection | None) -> None:
        """Count a unit that was written, or its rejection."""
        if rejection is None:
            self.written[status] += 1
        else:
            self.reject(rejection)

    def reject(self, rejection: Rejection) -> None:
        """Count a rejection and write its line."""
        self.rejected[rejection.reason] += 1
        self.rejected_file.write(rejection.model_dump_json().encode() + b"\n")


def chosen_cases(workspace: Store, case_file: Path | None) -> pa.StringArray:
    """Ids of all cases, or of those that the file lists, one a line; sorted.

    Raises:
        NothingToDoError: the workspace has no case.
        ConfigError: the file cannot be read, or lists a case that the workspace has not.
    """
    known = _known_cases(workspace)
    if not len(known):
        raise NothingToDoError("the workspace holds no case; run `sonoloop index` first")
    if case_file is None:
        return known
    try:
        wanted = pa.array(sorted(set(case_file.read_text().split())), pa.string())
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"the case file {case_file} cannot be read ({type(err).__name__})") from err
    num_unknown = pc.sum(pc.invert(pc.is_in(wanted, value_set=known))).as_py()
    if num_unknown or not len(wanted):
        raise ConfigError(
            f"{case_file} must list case ids of this workspace, one a line; of its {len(wanted)} ids "
            f"{num_unknown or 0} are no case here"
        )
    return wanted


def _known_cases(workspace: Store) -> pa.StringArray:
    """Ids of all cases but the withdrawn ones, sorted."""
    tables = map(_not_withdrawn, stream(workspace, CASES, columns=("withdrawn",)))
    chunks = [chunk for table in tables for chunk in _ids(table).chunks]
    return pa.concat_arrays([pa.array([], pa.string()), *chunks])


def _ids(table: pa.Table) -> pa.ChunkedArray:
    return table["case_id"]


def _not_withdrawn(cases: pa.Table) -> pa.Table:
    return cases.filter(pc.invert(pc.fill_null(cases["withdrawn"], False)))


def outcomes_of(
    config: Config, workspace: Store, case_ids: pa.StringArray, *, reviewed_only: bool
) -> Iterator[Result | Rejection]:
    """Each case's review, else its draft by the champion, else a rejection; by case id.

    Held are the reviews, and a range of cases with its drafts.
    """
    reviews = current_reviews(workspace)
    drafted_at = {run.run_id: run.started_at for run in read_runs(workspace)}
    for cases, drafts in _drafted_cases(config, workspace, case_ids):
        for case in cases:
            try:
                yield result_of(
                    case,
                    reviews.get(case.case_id),
                    drafts.get(case.case_id),
                    drafted_at=drafted_at,
                    reviewed_only=reviewed_only,
                )
            except RejectedError as err:
                yield Rejection.of("case", case.case_id, err)


def _drafted_cases(
    config: Config, workspace: Store, case_ids: pa.StringArray
) -> Iterator[tuple[list[CaseRecord], dict[str, DraftRecord]]]:
    """Some of the cases at a time, by id, and the champion's drafts of them."""
    champion = registry.read_aliases(workspace, config.model.name).champion or ""  # of nobody
    cases = RoomReader(workspace, CASES)
    drafts = RoomReader(workspace, DRAFTS, where=of_version(champion, config.annotate.prompt_version))
    for keys in ranges_of((*cases.files, *drafts.files)):
        there = _not_withdrawn(cases.read(keys))
        there, drafted = there.filter(pc.is_in(_ids(there), value_set=case_ids)), drafts.read(keys)
        for start in range(0, there.num_rows, CASES_AT_ONCE):
            some = there.slice(start, CASES_AT_ONCE)
            own = drafted.filter(pc.is_in(_ids(drafted), value_set=_ids(some).combine_chunks()))
            rows = map(DraftRecord.from_row, own.to_pylist())
            yield [CaseRecord.from_row(row) for row in some.to_pylist()], {row.case_id: row for row in rows}


def results_in(outcomes: Iterable[Result | Rejection], tally: Tally) -> Iterator[Result]:
    """The results among outcomes; the others are counted as rejected."""
    for outcome in outcomes:
        if isinstance(outcome, Rejection):
            tally.reject(outcome)
        else:
            yield outcome


def instances_of(workspace: Store, case_ids: pa.StringArray) -> Iterator[list[InstanceRecord]]:
    """Indexed instances of these cases, a range of the table at a time; one stored twice comes once."""
    seen: set[str] = set()
    for table in stream(workspace, INSTANCES):
        wanted = pc.and_(pc.equal(table["status"], "indexed"), pc.is_in(_ids(table), value_set=case_ids))
        rows = map(InstanceRecord.from_row, table.filter(wanted).to_pylist())
        fresh = {row.instance_id: row for row in rows if row.instance_id not in seen}
        seen.update(fresh)
        if fresh:
            yield list(fresh.values())


def write_units(
    units: Sequence[U], write: Callable[[U], None], reject: Callable[[U, RejectedError], Rejection]
) -> Iterator[tuple[U, Rejection | None]]:
    """Write units in tasks of the cluster; each comes back with its rejection, or with none.

    Args:
        units: What to write.
        write: Writes one; raises `RejectedError` where it cannot.
        reject: Makes the line of a unit that was rejected.

    Raises:
        StorageError: from ``write``, the store cannot be had.
    """
    kind = type(units[0])

    def write_batch(batch: dict[str, Any]) -> dict[str, Any]:
        rejections = [_rejection(kind.model_validate_json(unit), write, reject) for unit in batch["unit"]]
        counter.add.remote(len(rejections), sum(line is not None for line in rejections))
        return {"place": batch["place"], "rejection": pa.array(rejections, pa.string())}

    table = pa.table({"place": range(len(units)), "unit": [unit.model_dump_json() for unit in units]})
    with counted("export", len(units)) as counter:
        dataset = ray.data.from_arrow(table).repartition(max(1, len(units) // UNITS_PER_TASK))
        written = dataset.map_batches(write_batch, batch_size=UNITS_PER_TASK)
        rows = {row["place"]: row["rejection"] for row in written.iter_rows()}
    for place, unit in enumerate(units):
        line = rows[place]
        yield unit, None if line is None else Rejection.model_validate_json(line)


def _rejection(
    unit: U, write: Callable[[U], None], reject: Callable[[U, RejectedError], Rejection]
) -> str | None:
    try:
        write(unit)
    except RejectedError as err:
        return reject(unit, err).model_dump_json()
    return None
