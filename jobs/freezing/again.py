"""A past snapshot made again, from the rows that were there when it was frozen.

What only grows is taken as it was: rows of ``reviews/`` that the snapshot names, rows of the ledger of tasks,
of the register and of imported sets up to its moment. What changes in place, the cases and their marks, was
kept beside it. All of this goes into a workspace of its own, from which the snapshot is composed anew.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from sonoloop.jobs.freezing.composing import Composed, compose
from sonoloop.jobs.freezing.material import read_imported, read_said
from sonoloop.jobs.freezing.register import FACTS_FILE, SIDES, SideRecord, read_past
from sonoloop.jobs.freezing.rows import CaseFacts
from sonoloop.jobs.snapshot import KNOWN_FILE, Snapshot, read_manifest
from sonoloop.platform.errors import CountError
from sonoloop.platform.records import ConversationRecord, ReviewRecord
from sonoloop.platform.tasks import TaskRecord
from sonoloop.platform.workspace import Store


def recreate_snapshot(workspace: Store, name: str) -> Composed:
    """Make a snapshot again and prove that it is the same, to the last side and weight.

    Raises:
        ConfigError: no such snapshot, or one of an older version.
        CountError: it comes out otherwise, or rows that it was made of are gone.
        StorageError: the workspace cannot be read.
    """
    snapshot = read_manifest(workspace, name)
    facts = workspace.read_table(CaseFacts.ARROW, workspace.path("training", name, FACTS_FILE))
    with TemporaryDirectory(prefix="sonoloop-") as folder:
        past = Store(folder)
        _copy_reviews(workspace, past, name)
        _copy(workspace, past, TaskRecord.ARROW, pc.field("written_at") <= snapshot.frozen_at, "tasks")
        _copy(workspace, past, SideRecord.ARROW, pc.field("at") < snapshot.frozen_at, *SIDES)
        for imported in snapshot.settings.imported:
            was_there = pc.field("indexed_at") <= snapshot.frozen_at
            _copy(workspace, past, ConversationRecord.ARROW, was_there, *_set(imported))
        made = _composed(past, snapshot, [CaseFacts.from_row(row) for row in facts.to_pylist()])
    if made.name != name:
        raise CountError(
            f"snapshot {name}, made again of what was there at {snapshot.frozen_at:%Y-%m-%d %H:%M}, comes "
            f"out as {made.name}, {len(made.rows)} rows; rows were changed, or sonoloop was another version"
        )
    return made


def _composed(past: Store, snapshot: Snapshot, facts: list[CaseFacts]) -> Composed:
    imported = read_imported(past, snapshot.settings.imported)
    said, register, lacking = read_said(past), read_past(past), frozenset(snapshot.missing_images)
    return compose(
        said, facts, imported, lacking, register, snapshot.settings, test_share=snapshot.test_share
    )


def _set(imported: str) -> tuple[str, ...]:
    return "imported", imported, "conversations"


def _copy_reviews(workspace: Store, past: Store, name: str) -> None:
    known = workspace.read_table(
        pa.schema([("review_id", pa.string())]), workspace.path("training", name, KNOWN_FILE)
    )["review_id"].combine_chunks()
    num_rows = _copy(workspace, past, ReviewRecord.ARROW, pc.field("review_id").isin(known), "reviews")
    if num_rows < len(known):
        raise CountError(
            f"{len(known) - num_rows} of the {len(known)} review rows that snapshot {name} was made of are "
            f"gone from {workspace.uri}/reviews; restore them"
        )


def _copy(workspace: Store, past: Store, schema: pa.Schema, which: pc.Expression, *place: str) -> int:
    """Copy rows of a room; gives their number."""
    table = workspace.read_tables(schema, *place).filter(which)
    past.write_table(table, *place, "0.parquet")
    return int(table.num_rows)
