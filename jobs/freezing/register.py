"""Who stood on which side of any snapshot: ``training/sides/``, append-only, for ever.

``SideRecord``, one row for each fact that a snapshot added; what a snapshot repeats is not written again.

| column | dtype | meaning |
|---|---|---|
| kind | string | what the key names, see ``Kind`` |
| key | string | id of a case or conversation, pseudonym of a patient, workspace key of a picture |
| side | string | ``train`` or ``held-out`` |
| snapshot | string | the first snapshot that says so |
| at | timestamp[us, UTC] | when that was frozen |

Both sides are kept. What was held out is never trained on; and what was trained on is never held out
afterwards, or a model would be tested on what it, or the one it began from, has learned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Literal

import pyarrow as pa

from sonoloop.jobs.freezing.rows import CaseFacts, ConversationRow, SnapshotRow
from sonoloop.platform.records import Record, content_id
from sonoloop.platform.workspace import Store

SIDES = ("training", "sides")
ROWS_FILE, CONVERSATIONS_FILE, FACTS_FILE = "reviews.parquet", "conversations.parquet", "cases.parquet"
BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
"""When snapshots were frozen that the register is younger than."""

Side = Literal["train", "held-out"]
Kind = Literal["case", "near", "patient", "picture", "imported-picture"]
"""A case or conversation; a near-duplicate of a case, itself in no snapshot; a patient, or the group of a
conversation; a picture of a case; a picture of a conversation.
"""


class SideRecord(Record):
    """Something stood on a side."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("kind", pa.string()),
            ("key", pa.string()),
            ("side", pa.string()),
            ("snapshot", pa.string()),
            ("at", pa.timestamp("us", tz="UTC")),
        ]
    )
    kind: Kind
    key: str
    side: Side
    snapshot: str
    at: datetime


@dataclass(frozen=True)
class Past:
    """The register, by kind and side."""

    keys: dict[tuple[Kind, Side], set[str]] = field(default_factory=lambda: defaultdict(set))

    def sides(self, kind: Kind, *keys: str) -> frozenset[Side]:
        """The sides on which one of these stood."""
        both: tuple[Side, ...] = ("train", "held-out")
        return frozenset(side for side in both if not self.keys[kind, side].isdisjoint(keys))

    def all_of(self, kind: Kind) -> frozenset[str]:
        """Everything of a kind that stood on a side."""
        return frozenset(self.keys[kind, "train"] | self.keys[kind, "held-out"])


def read_past(workspace: Store) -> Past:
    """Who stood where in all snapshots so far.

    Raises:
        StorageError: the workspace cannot be read.
    """
    table = workspace.read_tables(SideRecord.ARROW, *SIDES)
    past = Past()
    columns = (table[name].to_pylist() for name in ("kind", "side", "key"))
    for kind, side, key in zip(*columns, strict=True):
        past.keys[kind, side].add(key)
    return past


def side_of(split: str) -> Side:
    """The side of a split."""
    return "train" if split == "train" else "held-out"


def facts_of(
    rows: Iterable[SnapshotRow], conversations: Iterable[ConversationRow], cases: Iterable[CaseFacts]
) -> set[tuple[Kind, str, Side]]:
    """What a snapshot says of who stands where, the near-duplicates of its cases included."""
    found: set[tuple[Kind, str, Side]] = set()
    by_id = {case.case_id: case for case in cases}
    groups: dict[str, Side] = {}
    for row in rows:
        side = side_of(row.split)
        found |= {("case", row.case_id, side), ("patient", row.patient_key, side)}
        if (case := by_id.get(row.case_id)) is not None:
            found |= {("picture", key, side) for key in case.images}
            if case.group_key is not None:
                groups[case.group_key] = side
    for case in by_id.values():
        if case.group_key in groups:
            found.add(("near", case.case_id, groups[case.group_key]))
    for one in conversations:
        side = side_of(one.split)
        found |= {("case", one.conversation_id, side), ("patient", one.group_key, side)}
        found |= {("imported-picture", key, side) for key in one.image_keys}
    return found


def register(
    workspace: Store, found: set[tuple[Kind, str, Side]], past: Past, *, snapshot: str, at: datetime
) -> None:
    """Append what the register does not say yet; nothing is written for nothing.

    Raises:
        StorageError: the workspace cannot be written.
    """
    new = sorted(one for one in found if one[1] not in past.keys[one[0], one[2]])
    rows = [SideRecord(kind=kind, key=key, side=side, snapshot=snapshot, at=at) for kind, key, side in new]
    if rows:
        name = content_id(snapshot, *(f"{row.kind}:{row.key}:{row.side}" for row in rows), length=16)
        workspace.write_table(SideRecord.table(rows), *SIDES, f"{name}.parquet")


def register_older(workspace: Store) -> None:
    """Enter snapshots that are older than the register; they hold no `CaseFacts`.

    Raises:
        StorageError: the workspace cannot be read or written.
    """
    places = [tuple(path.split("/")[-2:]) for path in workspace.table_paths("training")]
    known = {name for name, file in places if file == FACTS_FILE}
    older = {name for name, file in places if file == ROWS_FILE} - known
    if not older:
        return
    entered = set(workspace.read_tables(SideRecord.ARROW, *SIDES)["snapshot"].to_pylist())
    for name in sorted(older - entered):
        table = workspace.read_table(SnapshotRow.ARROW, workspace.path("training", name, ROWS_FILE))
        rows = map(SnapshotRow.from_row, table.to_pylist())
        register(workspace, facts_of(rows, (), ()), Past(), snapshot=name, at=BEFORE)
