"""A case, or the task that shows it: what it was made of, who wrote and said what, who learned from it."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import Field

from sonoloop.jobs.tracing.ledgers import learned_from, reviews_where, snapshot_rows, tasks_where
from sonoloop.jobs.tracing.models import Told
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, FRAMES, KeyRange, RoomReader
from sonoloop.platform.workspace import Store

T = TypeVar("T", bound=Told)


class Drafted(Told):
    """What one model and prompt version made of the case."""

    model_version: str
    prompt_version: str
    run_id: str
    status: str
    reason: str | None

    def __str__(self) -> str:
        """One line."""
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.model_version}, prompt {self.prompt_version}, {self.run_id}: {self.status}{why}"


class Task(Told):
    """A task of the case."""

    project: str
    task_id: int | None
    purpose: str
    state: str
    model_version: str | None
    written_at: datetime

    def __str__(self) -> str:
        """One line."""
        shows = f", shows {self.model_version}" if self.model_version else ", shows no draft"
        return f"{self.project}:{self.task_id}, {self.purpose}, {self.state}{shows}"


class Said(Told):
    """The newest state of an annotation of the case."""

    review_id: str
    project: str | None
    task_id: int
    annotation_id: int
    reader: str
    began_from: str | None
    updated_at: datetime
    escape: str | None
    deleted: bool
    adjudicates: bool

    def __str__(self) -> str:
        """One line."""
        marks = (
            f"from {self.began_from}" if self.began_from else "without a draft",
            self.escape or "",
            "adjudicates" if self.adjudicates else "",
            "deleted" if self.deleted else "",
        )
        return f"{self.updated_at:%Y-%m-%d %H:%M} by {self.reader}, {', '.join(filter(None, marks))}"


class Frozen(Told):
    """A snapshot that the case is in."""

    snapshot: str
    split: str
    models: tuple[str, ...] = Field(description="versions that were trained on the snapshot")

    def __str__(self) -> str:
        """One line."""
        models = ", ".join(self.models) or "no model"
        how = "learned by" if self.split == "train" else "held out of"
        return f"{self.snapshot}, {self.split}: {how} {models}"


class CaseLineage(Told):
    """Everything that is known of a case, its contents apart."""

    case_id: str
    asked_by_task: str | None = None
    indexed_at: datetime
    withdrawn: bool
    scanner: str | None
    images: int
    instances: int = Field(description="that its images came from, or that could not be used")
    instances_rejected: int
    drafts: tuple[Drafted, ...]
    tasks: tuple[Task, ...]
    reviews: tuple[Said, ...]
    snapshots: tuple[Frozen, ...]


def trace_case(workspace: Store, case: CaseRecord, *, asked_by_task: str | None = None) -> CaseLineage:
    """The lineage of a case.

    Raises:
        StorageError: the workspace cannot be read.
    """
    keys, is_it = KeyRange(case.case_id, case.case_id + "\0"), ds.field("case_id") == case.case_id
    frames = RoomReader(workspace, FRAMES, columns=("instance_id", "status")).read(keys)
    rejected = frames.filter(pc.equal(frames["status"], "rejected"))
    shown = {image.instance_id for image in case.images}
    drafts = RoomReader(workspace, DRAFTS, columns=("run_id", "status", "reason")).read(keys)
    return CaseLineage(
        case_id=case.case_id,
        asked_by_task=asked_by_task,
        indexed_at=case.indexed_at,
        withdrawn=case.withdrawn,
        scanner=case.scanner,
        images=len(case.images),
        instances=len(shown | set(frames["instance_id"].to_pylist())),
        instances_rejected=len(pc.unique(rejected["instance_id"])),
        drafts=tuple(_only(Drafted, row) for row in drafts.to_pylist()),
        tasks=tuple(_only(Task, row) for row in tasks_where(workspace, is_it).to_pylist()),
        reviews=tuple(_said(workspace, is_it)),
        snapshots=tuple(_frozen(workspace, is_it)),
    )


def find_case(workspace: Store, case_id: str) -> CaseRecord | None:
    """The newest row of a case, withdrawn ones too; ``None`` where there is none.

    Raises:
        StorageError: the workspace cannot be read.
    """
    rows = RoomReader(workspace, CASES).read(KeyRange(case_id, case_id + "\0")).to_pylist()
    return CaseRecord.from_row(rows[0]) if rows else None


def _said(workspace: Store, is_it: ds.Expression) -> list[Said]:
    rows = reviews_where(workspace, is_it).sort_by("updated_at").to_pylist()
    flags = ("deleted", "adjudicates")
    return [
        _only(Said, {**row, "began_from": row["model_version"], **{name: bool(row[name]) for name in flags}})
        for row in rows
    ]


def _frozen(workspace: Store, is_it: ds.Expression) -> list[Frozen]:
    models, found = learned_from(workspace), []
    for snapshot in workspace.folders("training"):
        for row in snapshot_rows(workspace, snapshot, is_it).to_pylist():
            found.append(
                Frozen(snapshot=snapshot, split=row["split"], models=tuple(models.get(snapshot, ())))
            )
    return found


def _only(kind: type[T], row: dict[str, object]) -> T:
    return kind.model_validate({name: row[name] for name in kind.model_fields})
