"""The parts of an export: which cases, their results, and units spread over the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from sonoloop.platform.sorted_rooms import INSTANCES, stream
from sonoloop.platform.tables import current_reviews, read_cases, read_drafts
from sonoloop.platform.workspace import Store

U = TypeVar("U", bound=BaseModel)

UNITS_PER_TASK = 8


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


def chosen_cases(workspace: Store, case_file: Path | None) -> list[CaseRecord]:
    """All cases, or those whose ids the file lists, one a line.

    Raises:
        NothingToDoError: the workspace has no case.
        ConfigError: the file cannot be read, or lists a case that the workspace has not.
    """
    cases = {case.case_id: case for case in read_cases(workspace)}
    if not cases:
        raise NothingToDoError("the workspace holds no case; run `sonoloop index` first")
    if case_file is None:
        return list(cases.values())
    try:
        wanted = list(dict.fromkeys(case_file.read_text().split()))
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"the case file {case_file} cannot be read ({type(err).__name__})") from err
    unknown = [case_id for case_id in wanted if case_id not in cases]
    if unknown or not wanted:
        raise ConfigError(
            f"{case_file} must list case ids of this workspace, one a line; of its {len(wanted)} ids "
            f"{len(unknown)} are no case here"
        )
    return [cases[case_id] for case_id in sorted(wanted)]


def results_of(
    config: Config, workspace: Store, cases: Sequence[CaseRecord], *, reviewed_only: bool
) -> tuple[list[Result], list[Rejection]]:
    """Each case's review, else its draft by the champion, else a rejection."""
    reviews, drafts = current_reviews(workspace), _champion_drafts(config, workspace)
    drafted_at = {run.run_id: run.started_at for run in read_runs(workspace)}
    results, rejections = [], []
    for case in cases:
        try:
            result = result_of(
                case,
                reviews.get(case.case_id),
                drafts.get(case.case_id),
                drafted_at=drafted_at,
                reviewed_only=reviewed_only,
            )
            results.append(result)
        except RejectedError as err:
            rejections.append(Rejection.of("case", case.case_id, err))
    return results, rejections


def _champion_drafts(config: Config, workspace: Store) -> dict[str, DraftRecord]:
    champion = registry.read_aliases(workspace, config.model.name).champion
    if champion is None:
        return {}
    drafts = read_drafts(workspace, model_version=champion, prompt_version=config.annotate.prompt_version)
    return {draft.case_id: draft for draft in drafts}


def instances_of(workspace: Store, case_ids: set[str]) -> Iterator[list[InstanceRecord]]:
    """Indexed instances of these cases, a range of the table at a time; one stored twice comes once."""
    seen: set[str] = set()
    for table in stream(workspace, INSTANCES):
        wanted = pc.and_(
            pc.equal(table["status"], "indexed"), pc.is_in(table["case_id"], pa.array(case_ids, pa.string()))
        )
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
