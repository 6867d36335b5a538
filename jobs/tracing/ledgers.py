"""Tasks and reviews as lineage asks for them: few columns, the newest row of each."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sonoloop.jobs.tracing.rows import newest_of, rows_of, some_columns
from sonoloop.platform import registry
from sonoloop.platform.records import ReviewRecord
from sonoloop.platform.tasks import TaskRecord
from sonoloop.platform.workspace import Store

_TASK = ("project", "case_id", "task_id", "purpose", "strategy", "model_version", "state", "written_at")
_REVIEW = (
    "review_id",
    "annotation_id",
    "task_id",
    "case_id",
    "model_version",
    "reader",
    "updated_at",
    "escape",
    "deleted",
    "project",
    "adjudicates",
)
_SNAPSHOT = pa.schema([(name, pa.string()) for name in ("case_id", "split", "reader", "model_version")])


def tasks_where(workspace: Store, where: ds.Expression | None = None) -> pa.Table:
    """The newest row of every project and case, of rows that meet a condition on project, case or task id.

    Raises:
        StorageError: the workspace cannot be read.
    """
    rows = rows_of(workspace, some_columns(TaskRecord, _TASK), "tasks", where=where)
    return newest_of(rows, ["project", "case_id"], "written_at")


def reviews_where(workspace: Store, where: ds.Expression | None = None) -> pa.Table:
    """The newest row of every annotation, deletions too, of rows that meet a condition on case or task id.

    Raises:
        StorageError: the workspace cannot be read.
    """
    rows = rows_of(workspace, some_columns(ReviewRecord, _REVIEW), "reviews", where=where)
    return newest_of(rows, ["case_id", "task_id", "annotation_id"], "updated_at")


def standing(reviews: pa.Table) -> pa.Table:
    """Of the newest rows, those that are not deleted."""
    return reviews.filter(pc.invert(pc.fill_null(reviews["deleted"], False)))


def snapshot_rows(workspace: Store, snapshot: str, where: ds.Expression | None = None) -> pa.Table:
    """``case_id, split, reader, model_version`` of a snapshot's reviews.

    Raises:
        StorageError: the workspace cannot be read.
    """
    return rows_of(workspace, _SNAPSHOT, "training", snapshot, where=where, named="reviews.parquet")


def learned_from(workspace: Store) -> dict[str, list[str]]:
    """Snapshot to the model versions that were trained on it, the oldest first."""
    found: dict[str, list[str]] = {}
    for version in registry.model_versions(workspace):
        snapshot = registry.read_lineage(workspace, version).get("snapshot")
        if snapshot is not None:
            found.setdefault(str(snapshot), []).append(version)
    return found
