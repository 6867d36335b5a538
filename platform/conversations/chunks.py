"""A chunk of a file of conversations becomes rows of an imported set: taken or rejected, each entry once.

``ImportRejection`` (``imported/<name>/rejections/``), one row per entry that could not be taken:

| column | dtype | meaning |
|---|---|---|
| place | int64 | the entry's number in the file, or its line's, from 1 |
| stage | string | ``entry``, what it says, or ``images``, what it shows |
| reason, detail, retryable | string, string, bool | why, and whether it may succeed another time |
| indexed_at | timestamp[us, UTC] | when |

Rows of a chunk lie under the number of its first entry. What comes out as it did is not written again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, TypeVar

import pyarrow as pa
from pydantic import SecretStr

from sonoloop.platform.archive.reading.pixels import quiet
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.conversations.files import RawEntry
from sonoloop.platform.conversations.formats import Conversation, parse_conversation
from sonoloop.platform.conversations.identifying import check_texts
from sonoloop.platform.conversations.pictures import PictureImporter
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.records import ConversationRecord, Record, content_id
from sonoloop.platform.workspace import Store

R = TypeVar("R", bound=Record)
ROOM, CONVERSATIONS, REJECTIONS = "imported", "conversations", "rejections"


class ImportRejection(Record):
    """An entry that could not be taken."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("place", pa.int64()),
            ("stage", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("retryable", pa.bool_()),
            ("indexed_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    place: int
    stage: str
    reason: Reason
    detail: str
    retryable: bool
    indexed_at: datetime


@dataclass
class ImportCounts:
    """What became of entries; ``written`` counts rows that were not there before."""

    entries: int = 0
    taken: int = 0
    written: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: ImportCounts) -> None:
        """Count what another counted, too."""
        self.entries += other.entries
        self.taken += other.taken
        self.written += other.written
        self.reasons.update(other.reasons)


@dataclass(frozen=True)
class ChunkImporter:
    """Imports chunks of one file into one set; travels between processes."""

    workspace: Store
    images: Store
    config: IndexConfig
    key: SecretStr
    name: str
    now: datetime

    def import_chunk(self, chunk: Sequence[RawEntry]) -> ImportCounts:
        """Bring entries and their images in; the same again writes nothing.

        Raises:
            StorageError: images or workspace cannot be had.
        """
        pictures = PictureImporter(self.workspace, self.images, self.config)
        taken: list[ConversationRecord] = []
        rejected: list[ImportRejection] = []
        with quiet():
            for raw in chunk:
                outcome = self._outcome(raw, pictures)
                if isinstance(outcome, ConversationRecord):
                    taken.append(outcome)
                else:
                    rejected.append(outcome)
        file = f"{chunk[0].place:010}.parquet"
        written = self._write(rejected, ImportRejection, REJECTIONS, file)
        written += self._write(taken, ConversationRecord, CONVERSATIONS, file)
        reasons = Counter(str(row.reason) for row in rejected)
        return ImportCounts(len(chunk), len(taken), written, reasons)

    def _outcome(self, raw: RawEntry, pictures: PictureImporter) -> ConversationRecord | ImportRejection:
        stage = "entry"
        try:
            said = parse_conversation(_json(raw))
            check_texts(said)
            stage = "images"
            return self._record(said, tuple(map(pictures.bring, said.images)))
        except RejectedError as err:
            return ImportRejection(
                place=raw.place,
                stage=stage,
                reason=err.reason,
                detail=err.detail,
                retryable=err.retryable,
                indexed_at=self.now,
            )

    def _record(self, said: Conversation, keys: tuple[str, ...]) -> ConversationRecord:
        turns = [f"{turn.role}:{turn.text}" for turn in said.turns]
        if said.patient is not None:
            group = pseudonym(self.key, "patient", said.patient)  # as of cases of the archive
        elif said.group is not None:
            group = pseudonym(self.key, "group", said.group)
        else:
            group = content_id(*sorted(set(keys)))
        return ConversationRecord(
            conversation_id=content_id("conversation", *turns, *keys),
            source_id=None if said.source_id is None else pseudonym(self.key, "source", said.source_id),
            image_keys=keys,
            turns=said.turns,
            group_key=group,
            indexed_at=self.now,
        )

    def _write(self, rows: list[R], record: type[R], kind: str, file: str) -> int:
        """Write a chunk's rows of a kind, known ones with the time they had; gives how many are new."""
        place = (ROOM, self.name, kind, file)
        before: dict[str, R] = {}
        if self.workspace.exists(*place):
            table = self.workspace.read_table(record.ARROW, self.workspace.path(*place))
            before = {_content(row): row for row in map(record.from_row, table.to_pylist())}
        kept = [before.get(_content(row), row) for row in rows]
        num_new = sum(_content(row) not in before for row in rows)
        if num_new or len(before) > len({_content(row) for row in rows}):
            self.workspace.write_table(record.table(kept), *place)
        return num_new


def _content(row: Record) -> str:
    """A row without its time."""
    return row.model_dump_json(exclude={"indexed_at"})


def _json(raw: RawEntry) -> object:
    found: object
    try:
        found = json.loads(raw.text)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair fits no table
        return found
    except (ValueError, RecursionError) as err:  # the message would quote the entry
        raise RejectedError(Reason.BAD_JSON, f"expected a JSON object ({type(err).__name__})") from None
