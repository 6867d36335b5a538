"""One project of Label Studio, read into ``reviews/``: what is new, what changed, and what is gone.

Reading follows ``updated_at``, which in Label Studio 1.23 moves with every annotation that is made, edited or
deleted, one by one or in bulk. Two things it does not tell: that a task was deleted, and that a task lost its
last annotation, which puts it among the tasks without any. So every pull ends with one question, how many
annotations the project holds; where that is not what the workspace has, the tasks' counts are walked and
those that differ are read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, SecretStr

from sonoloop.jobs.pulling.known import Known
from sonoloop.jobs.pulling.oddities import annotation_oddities, review_oddities
from sonoloop.jobs.pulling.withdrawing import withdraw
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.annotations import reviews_of
from sonoloop.platform.labelstudio.answers import Project, SeenTask
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.records import ReviewRecord, content_id
from sonoloop.platform.tasks import project_key
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

ROWS_PER_PART = 2000
"""Rows that are held before they are written: a few MB."""
FEW = 20
"""Deletions up to this many are believed at once, however few annotations there are."""


class Mark(BaseModel):
    """``reviews/marks/<project>.json``: up to when it was read; annotations in it that are not ours."""

    read_until: datetime
    foreign: int = 0


@dataclass
class PullCounts:
    """What a pull found; ``problems`` and ``escapes`` by name."""

    new: int = 0
    known: int = 0
    deleted: int = 0
    skipped: int = 0
    withdrawn: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    escapes: Counter[str] = field(default_factory=Counter)


class ProjectPull:
    """Reads one project.

    Args:
        workspace: Where ``reviews/`` lies.
        door: The Label Studio.
        project: The project.
        key: For the readers' pseudonyms.
        adjudicates: The project is the one where disagreements are settled.
    """

    def __init__(
        self, workspace: Store, door: LabelStudioDoor, project: Project, key: SecretStr, *, adjudicates: bool
    ) -> None:
        self._workspace, self._door, self._project, self._key = workspace, door, project, key
        self._name = project_key(door.config.url, project.id)
        self._stamp = {"project": self._name, "adjudicates": adjudicates}
        self._known = Known.read(workspace, self._name)
        self._waiting: list[ReviewRecord] = []
        self._gone: set[int] = set()
        self._foreign = 0
        self.counts = PullCounts()

    def run(self, *, full: bool) -> PullCounts:
        """Append what is new, changed or gone since the last pull.

        Args:
            full: Read every task instead of what changed, and believe any number of deletions.

        Raises:
            ServiceError: Label Studio does not answer or refuses, or more than half of the annotations are
                gone and ``full`` is not asked for.
            StorageError: the workspace cannot be read or written.
        """
        before = self._read_mark()
        changes = self._door.changes(self._project.id, None if before is None or full else before.read_until)
        self._take(changes.tasks)
        foreign = self._check(before.foreign if before else 0, full=full)
        if not full:
            self._believe()
        self._write(list(self._deletions(changes.mark)))
        self.counts.deleted = len(self._gone)
        # After the rows: a crash in between repeats rows that are known by then, and loses none.
        mark = Mark(read_until=changes.mark, foreign=foreign)
        self._workspace.write_bytes(mark.model_dump_json().encode(), *self._mark_place)
        return self.counts

    @property
    def _mark_place(self) -> tuple[str, str, str]:
        return "reviews", "marks", f"{self._name}.json"

    def _read_mark(self) -> Mark | None:
        try:
            return Mark.model_validate_json(self._workspace.read_bytes(*self._mark_place))
        except FileNotFoundError:
            return None

    def _take(self, tasks: Iterable[SeenTask]) -> None:
        """Append the new rows of these tasks, a part at a time, and note which annotations are gone."""
        for task in tasks:
            self._waiting += self._new_reviews(task)
            if len(self._waiting) >= ROWS_PER_PART:
                self._flush()
        self._flush()

    def _new_reviews(self, task: SeenTask) -> list[ReviewRecord]:
        standing = [annotation for annotation in task.annotations if not annotation.was_cancelled]
        if task.data.case_id is None:
            self._foreign += len(standing)
        self._gone |= set(self._known.live_of(task.id)) - {annotation.id for annotation in standing}
        known = {a.id for a in standing if self._known.has(a.id, a.updated_at)}
        self.counts.known += len(known)
        fresh = tuple(annotation for annotation in task.annotations if annotation.id not in known)
        found = reviews_of([task.model_copy(update={"annotations": fresh})], self._key)
        self.counts.skipped += found.num_cancelled
        self.counts.problems += found.problems
        if found.reviews:
            self.counts.problems += annotation_oddities(fresh) + review_oddities(found.reviews)
        return [review.model_copy(update=self._stamp) for review in found.reviews]

    def _flush(self) -> None:
        """Write the rows that wait; before them, take out of sight what a reader saw patient data in."""
        escapes = Counter(str(row.escape) for row in self._waiting if row.escape is not None)
        seen = {row.case_id: row.reader for row in self._waiting if row.escape == "patient-data-visible"}
        if seen:
            self.counts.withdrawn += withdraw(self._workspace, seen)
        self._write(self._waiting)
        self.counts.new += len(self._waiting) - escapes.total()
        self.counts.escapes += escapes
        self._waiting = []

    def _write(self, rows: list[ReviewRecord]) -> None:
        if rows:
            name = f"{content_id(*sorted(row.review_id for row in rows), length=16)}.parquet"
            self._workspace.write_table(ReviewRecord.table(rows), "reviews", name)

    def _check(self, foreign: int, *, full: bool) -> int:
        """Compare the annotations that the server counts with the workspace's, and read what differs.

        Returns:
            How many annotations of the project are not ours.
        """
        self._known = Known.read(self._workspace, self._name)
        standing = len(self._known.live) - len(self._gone)
        if not full and self._door.num_annotations(self._project.id) == standing + foreign:
            return foreign
        there = {task.id: task.total_annotations for task in self._door.annotation_counts(self._project.id)}
        here = dict(self._known.live_counts())
        self._gone |= {one for task in here.keys() - there.keys() for one in self._known.live_of(task)}
        self._foreign = 0
        differing = sorted(task for task, num in there.items() if num != here.get(task, 0))
        self._take(self._door.tasks_by_id(self._project.id, differing))
        return self._foreign

    def _believe(self) -> None:
        num_gone, num_known = len(self._gone), len(self._known.live)
        if num_gone > max(FEW, num_known // 2):
            raise ServiceError(
                f"{num_gone} of the {num_known} annotations known here are gone from Label Studio's project "
                f"{self._project.id}; nothing was written about that. See that it is the right server and "
                "project; if they were deleted on purpose, run `sonoloop pull --full`"
            )

    def _deletions(self, at: datetime) -> Iterator[ReviewRecord]:
        """A row for each annotation that is gone, with nothing of what it said."""
        for row in self._last_rows():
            seen_at = max(at, row.updated_at + timedelta(microseconds=1))
            yield ReviewRecord(
                review_id=content_id(str(row.annotation_id), seen_at.isoformat(), "deleted"),
                annotation_id=row.annotation_id,
                task_id=row.task_id,
                case_id=row.case_id,
                model_version=row.model_version,
                reader=row.reader,
                findings="",
                impression="",
                entities=None,
                boxes=(),
                origins={},
                lead_time_s=None,
                created_at=row.created_at,
                updated_at=seen_at,
                deleted=True,
                project=row.project,
                adjudicates=row.adjudicates,
            )

    def _last_rows(self) -> list[ReviewRecord]:
        """The newest row of each annotation that is gone, a file of the room at a time."""
        gone = pa.array(sorted(self._gone), pa.int64())
        newest: dict[int, ReviewRecord] = {}
        for path in self._workspace.table_paths("reviews") if self._gone else ():
            table = self._workspace.read_table(ReviewRecord.ARROW, path)
            ours = pc.fill_null(pc.equal(table["project"], self._name), False)
            of_these = pc.is_in(table["annotation_id"], value_set=gone)
            for row in map(ReviewRecord.from_row, table.filter(pc.and_(ours, of_these)).to_pylist()):
                if row.annotation_id not in newest or newest[row.annotation_id].updated_at < row.updated_at:
                    newest[row.annotation_id] = row
        return list(newest.values())
