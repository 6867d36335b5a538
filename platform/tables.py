"""The rooms of the workspace as tables, each with the rule that says which row counts.

`instances`, `frames`, `cases` and `reviews` are append-only: a newer row of the same key replaces the older
one in these views. Drafts are keyed by (case, model version, prompt version).

What people say of a case, by this one rule:

1. Of the rows of an annotation the newest counts. Where that one is a deletion, the annotation is out.
2. Where an annotation adjudicates, the newest one that does decides alone: its answer is the case's, and its
   escape leaves the case without one.
3. Otherwise each reader's newest annotation is what that reader says. An escape is no answer.
4. Of the readers' answers the most recent is the case's.
5. Readers disagree where their entities differ in the organ or in a choice that both were asked for; a place
   or side that only one of them gave is no difference, nor are numbers, boxes and words. Such a case is
   disputed until somebody adjudicates, and nothing learns from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import reduce
from itertools import combinations
from operator import and_
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.lexicon import Entities, choice_fields, parse_entities, qualifiers
from sonoloop.platform.records import CaseRecord, DraftRecord, Record, ReviewRecord
from sonoloop.platform.sorted_rooms import (
    CASES,
    DRAFTS,
    FRAMES,
    INSTANCES,
    RoomReader,
    ranges_of,
    stream,
)
from sonoloop.platform.workspace import Store

R = TypeVar("R", bound=Record)

CASES_AT_ONCE = 10_000
"""Of those asked for by name."""


def read_instances(workspace: Store) -> list[InstanceRecord]:
    """The newest row of every archive object, rejected ones included, ordered by URI; not what is gone.

    All of them at once: for an archive of any size, stream `sorted_rooms.INSTANCES`.
    """
    rows = (
        InstanceRecord.from_row(row) for table in stream(workspace, INSTANCES) for row in table.to_pylist()
    )
    return [row for row in rows if row.status != "gone"]


def read_cases(workspace: Store) -> list[CaseRecord]:
    """The newest row of every case, ordered by case id; not the withdrawn ones."""
    rows = (CaseRecord.from_row(row) for table in stream(workspace, CASES) for row in table.to_pylist())
    return [row for row in rows if not row.withdrawn]


def read_cases_of(workspace: Store, case_ids: Iterable[str]) -> dict[str, CaseRecord]:
    """The newest rows of these cases by id; not the withdrawn ones. Holds no row of any other case.

    Raises:
        StorageError: the workspace cannot be read.
    """
    wanted, found = sorted(set(case_ids)), dict[str, CaseRecord]()
    reader = RoomReader(workspace, CASES)
    for keys in ranges_of(reader.files) if wanted else ():
        start = 0 if keys.low is None else bisect_left(wanted, keys.low)
        stop = len(wanted) if keys.high is None else bisect_left(wanted, keys.high)
        for place in range(start, stop, CASES_AT_ONCE):
            some = wanted[place : min(stop, place + CASES_AT_ONCE)]
            table = reader.read(keys, where=ds.field("case_id").isin(some))
            rows = map(CaseRecord.from_row, table.to_pylist())
            found.update((row.case_id, row) for row in rows if not row.withdrawn)
    return found


def read_frames(workspace: Store) -> list[FrameRecord]:
    """The frames of every case's newest preparation, ordered by case id, rejections included."""
    return [FrameRecord.from_row(row) for table in stream(workspace, FRAMES) for row in table.to_pylist()]


def count_rejections(workspace: Store) -> dict[str, int]:
    """Archive objects and instances that were rejected, by reason; holds no more than a range of rows."""
    counts: Counter[str] = Counter()
    for room in (INSTANCES, FRAMES):
        for table in stream(workspace, room, columns=("status", "reason")):
            rejected = table.filter(pc.equal(table["status"], "rejected"))
            counts.update(rejected["reason"].to_pylist())
    return dict(counts)


def read_drafts(
    workspace: Store, *, model_version: str | None = None, prompt_version: str | None = None
) -> list[DraftRecord]:
    """Drafts and rejections of all runs, ordered by case id, optionally of one model and prompt version.

    A later attempt at a case replaces the earlier ones. All of them at once: for a workspace of any size,
    stream `sorted_rooms.DRAFTS`.
    """
    where = of_version(model_version, prompt_version)
    tables = stream(workspace, DRAFTS, where=where)
    return [DraftRecord.from_row(row) for table in tables for row in table.to_pylist()]


def of_version(model_version: str | None, prompt_version: str | None) -> ds.Expression | None:
    """The condition on drafts of a model and a prompt version; ``None`` where neither is named."""
    wanted = {"model_version": model_version, "prompt_version": prompt_version}
    conditions = [ds.field(name) == value for name, value in wanted.items() if value is not None]
    return reduce(and_, conditions) if conditions else None


def read_reviews(workspace: Store) -> list[ReviewRecord]:
    """Every review row ever pulled, oldest first."""
    return _sorted(workspace, ReviewRecord, "updated_at", "reviews")


def current_reviews(workspace: Store) -> dict[str, ReviewRecord]:
    """The review that counts for each case that has an answer; of disputed cases the most recent one."""
    table, said = _said(workspace)
    return {row.case_id: row for row in _records(table, filter(None, map(_current, said.values())))}


def count_reviewed(workspace: Store) -> int:
    """How many cases `current_reviews` has, without holding the reviews."""
    return sum(_current(rows) is not None for rows in _said(workspace, _RULE)[1].values())


def done_cases(workspace: Store) -> frozenset[str]:
    """Cases that somebody has answered or has said to be without an answer."""
    return frozenset(_said(workspace, _RULE)[1])


def readings(workspace: Store) -> dict[str, list[ReviewRecord]]:
    """What each reader says of each case, escapes included, oldest first; adjudications too."""
    table, said = _said(workspace)
    found: dict[str, list[ReviewRecord]] = {case_id: [] for case_id in said}
    for record in _records(table, (row for rows in said.values() for row in rows)):
        found[record.case_id].append(record)
    return found


def disputed_cases(workspace: Store) -> dict[str, list[ReviewRecord]]:
    """The answers to each case that its readers disagree on and nobody has adjudicated, oldest first.

    An answer without valid entities takes no part in that, and is not among them.
    """
    disputed = disputed_ids(workspace)
    if not disputed:
        return {}
    table, said = _said(workspace)
    found: dict[str, list[ReviewRecord]] = {case_id: [] for case_id in disputed}
    answers = (row for case_id in disputed for row in said[case_id] if row.escape is None)
    for record in _records(table, answers):
        if record.entities is not None:
            found[record.case_id].append(record)
    return found


def disputed_ids(workspace: Store) -> list[str]:
    """The cases of `disputed_cases`, sorted, without holding the reviews."""
    table, said = _said(workspace, pa.schema([*_RULE, ReviewRecord.ARROW.field("entities")]))
    found = []
    for case_id, rows in said.items():
        answers = [row for row in rows if row.escape is None]
        if len(answers) > 1 and not any(row.adjudicates for row in rows):
            texts = {table["entities"][row.place].as_py() for row in answers} - {None}
            if any(differ(*pair) for pair in combinations(map(parse_entities, sorted(texts)), 2)):
                found.append(case_id)
    return sorted(found)


def differ(one: Entities, other: Entities) -> bool:
    """Whether two readings differ in the organ or in a choice, by rule 5."""
    if one.organ != other.organ:
        return True
    mine, theirs, optional = one.flat(), other.flat(), qualifiers(one.organ)
    return any(
        mine.get(name) != theirs.get(name)
        for name in choice_fields(one.organ)
        if name not in optional or (name in mine and name in theirs)
    )


class _Row(NamedTuple):
    """What the rule needs of a row, and where the row stands in its table."""

    case_id: str
    task_id: int
    annotation_id: int
    reader: str
    updated_at: datetime
    escape: str | None
    deleted: bool | None
    adjudicates: bool | None
    place: int


_RULE = pa.schema([ReviewRecord.ARROW.field(name) for name in _Row._fields if name != "place"])


def _said(workspace: Store, schema: pa.Schema = ReviewRecord.ARROW) -> tuple[pa.Table, dict[str, list[_Row]]]:
    """All rows as a table, and of each case those that count: each reader's newest, adjudications apart."""
    table = workspace.read_tables(schema, "reviews").sort_by(
        [("updated_at", "ascending"), ("deleted", "ascending")]
    )
    columns = [table[name].to_pylist() for name in _RULE.names]
    annotations: dict[tuple[str, int, int], _Row] = {}
    for place, values in enumerate(zip(*columns, strict=True)):
        row = _Row._make((*values, place))
        annotations[row.case_id, row.task_id, row.annotation_id] = row
    by_reader: dict[str, dict[tuple[str, bool], _Row]] = {}
    for row in sorted(annotations.values(), key=lambda row: row.place):
        if not row.deleted:
            by_reader.setdefault(row.case_id, {})[row.reader, bool(row.adjudicates)] = row
    return table, {case_id: list(rows.values()) for case_id, rows in by_reader.items()}


def _current(rows: list[_Row]) -> _Row | None:
    """The row that answers a case, or ``None``."""
    deciding = [row for row in rows if row.adjudicates]
    answers = [row for row in rows if row.escape is None]
    last = max(deciding or answers, key=lambda row: row.place, default=None)
    return last if last is not None and last.escape is None else None


def _records(table: pa.Table, rows: Iterable[_Row]) -> Iterator[ReviewRecord]:
    places = sorted(row.place for row in rows)
    return map(ReviewRecord.from_row, table.take(pa.array(places, pa.int64())).to_pylist())


def _sorted(workspace: Store, record: type[R], by: str, *parts: str) -> list[R]:
    table = workspace.read_tables(record.ARROW, *parts).sort_by(by)
    return [record.from_row(row) for row in table.to_pylist()]
