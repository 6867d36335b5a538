"""What the figures are made of: who said what of which case, on which kind of task, from which draft."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from sonoloop.platform.lexicon import Entities, choice_fields, numeric_fields
from sonoloop.platform.records import DraftRecord, ReviewRecord
from sonoloop.platform.sorted_rooms import DRAFTS, stream
from sonoloop.platform.tables import of_version, readings
from sonoloop.platform.tasks import Purpose, gold_since, read_tasks
from sonoloop.platform.workspace import Store


@dataclass(frozen=True)
class Reading:
    """What a reader said of a case.

    ``purpose`` is the task's, ``None`` where the ledger does not know it; ``gold_since`` is when the case
    became gold.
    """

    review: ReviewRecord
    entities: Entities | None
    purpose: Purpose | None = None
    gold_since: datetime | None = None

    @property
    def values(self) -> dict[str, str]:
        """``organ`` and ``<organ>.<field>`` to the choice; numbers and what was not asked are left out."""
        return {} if self.entities is None else choices(self.entities)

    @property
    def numbers(self) -> dict[str, int]:
        """``<organ>.<field>`` to the number that was given, in the unit that the field's name ends in."""
        if self.entities is None:
            return {}
        organ, given = self.entities.organ, self.entities.model_dump(exclude_none=True)
        return {f"{organ}.{name}": given[name] for name in numeric_fields(organ) if name in given}


@dataclass(frozen=True)
class Evidence:
    """All readings by case, oldest first, and the drafts that readers may have seen."""

    cases: dict[str, list[Reading]]
    drafts: dict[tuple[str, str], DraftRecord] = field(default_factory=dict)

    def answers(self) -> Iterator[list[Reading]]:
        """The readers' answers to each case: no escapes, no adjudications."""
        for found in self.cases.values():
            yield [one for one in found if one.review.escape is None and not one.review.adjudicates]

    def truth_for(self, reading: Reading) -> Reading | None:
        """What is held to be true of a reader's case, as far as the reader had no part in it.

        The newest adjudication by somebody else; otherwise, of a case that was gold when the reader saw it,
        the newest answer of somebody else that was there before it became gold, since that is what was known.
        """
        review = reading.review
        others = [
            one
            for one in self.cases[review.case_id]
            if one.review.reader != review.reader and one.review.escape is None and one.entities is not None
        ]
        settled = [one for one in others if one.review.adjudicates]
        since = reading.gold_since
        if not settled and since is not None and since <= review.created_at:
            settled = [one for one in others if one.review.created_at < since]
        return settled[-1] if settled else None


def choices(entities: Entities) -> dict[str, str]:
    """``organ`` and ``<organ>.<field>`` to the choice that was made."""
    flat = entities.flat()
    named = {f"{entities.organ}.{name}": flat[name] for name in choice_fields(entities.organ) if name in flat}
    del named[f"{entities.organ}.organ"]
    return {"organ": entities.organ, **named}


def read_evidence(workspace: Store, *, with_drafts: bool = True) -> Evidence:
    """Everything that was said and is not deleted, with the drafts it started from or without.

    Raises:
        StorageError: the workspace cannot be read.
    """
    said = readings(workspace)
    projects = {row.project for rows in said.values() for row in rows if row.project is not None}
    purposes = {
        (project, case_id): task.purpose
        for project in projects
        for case_id, task in read_tasks(workspace, project).items()
    }
    gold = gold_since(workspace)
    cases = {case_id: [_reading(row, purposes, gold) for row in rows] for case_id, rows in said.items()}
    if not with_drafts:
        return Evidence(cases)
    versions = {row.model_version for rows in said.values() for row in rows if not row.adjudicates}
    return Evidence(cases, dict(_drafts(workspace, sorted(filter(None, versions)), said)))


def _reading(
    row: ReviewRecord,
    purposes: Mapping[tuple[str, str], Purpose],
    gold: Mapping[tuple[str, str], datetime],
) -> Reading:
    task = (str(row.project), row.case_id)
    return Reading(row, row.parsed_entities(), purposes.get(task), gold.get(task))


def _drafts(
    workspace: Store, versions: Iterable[str], case_ids: Iterable[str]
) -> Iterator[tuple[tuple[str, str], DraftRecord]]:
    """The drafts of these versions for these cases, whatever the prompt, and whether shown or not."""
    wanted = pa.array(sorted(case_ids), pa.string())
    for version in versions:
        for table in stream(workspace, DRAFTS, where=of_version(version, None)):
            of_these = pc.and_(
                pc.is_in(table["case_id"], value_set=wanted), pc.equal(table["status"], "draft")
            )
            for row in map(DraftRecord.from_row, table.filter(of_these).to_pylist()):
                yield (row.case_id, version), row
