"""The rooms of the workspace as tables, each with the rule that says which row counts.

`instances`, `frames`, `cases` and `reviews` are append-only: a newer row of the same key replaces the older
one in these views. Drafts are keyed by (case, model version, prompt version).
"""

from __future__ import annotations

from collections import Counter
from functools import reduce
from operator import and_
from typing import TypeVar

import pyarrow.compute as pc
import pyarrow.dataset as ds

from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.records import CaseRecord, DraftRecord, Record, ReviewRecord
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, FRAMES, INSTANCES, stream
from sonoloop.platform.workspace import Store

R = TypeVar("R", bound=Record)


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
    """The review that counts for each case: the one changed last, whoever wrote it."""
    return {review.case_id: review for review in read_reviews(workspace)}


def _sorted(workspace: Store, record: type[R], by: str, *parts: str) -> list[R]:
    table = workspace.read_tables(record.ARROW, *parts).sort_by(by)
    return [record.from_row(row) for row in table.to_pylist()]
