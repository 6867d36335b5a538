"""What a benchmark asks of a model and what came back.

An item is one question with its pictures and its reference answer. It is named by its place,
``<file>#<number>`` (from 0, as read), never by an identifier that the file gives: that may be a patient's.

An answer row (``models/<name>/<version>/evaluations/<suite>-<data>.parquet``):

| name | dtype | meaning |
|---|---|---|
| place | string | the item's place |
| item_hash | string | SHA-256 of what was asked, shown and expected |
| task, group | string | the suite's task; region, data set or file |
| reference | string | what should be answered |
| options, labels | list<string> | admissible answers; terms that are true of the pictures |
| answer | string | what the model wrote; null where the item was rejected |
| stage, reason, detail | string | where and why it was rejected: ``read`` (data) or ``answer`` (model) |
| num_tokens | int64 | tokens written |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from sonoloop.model.prompts import Role
from sonoloop.platform.errors import Reason, RejectedError, StorageError

ANSWERS = pa.schema(
    [
        *((name, pa.string()) for name in ("place", "item_hash", "task", "group", "reference")),
        *((name, pa.list_(pa.string())) for name in ("options", "labels")),
        *((name, pa.string()) for name in ("answer", "stage", "reason", "detail")),
        ("num_tokens", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a suite.

    Attributes:
        place: ``<file>#<number>``.
        task: The suite's task.
        group: Region, data set or file.
        turns: Role and text of each turn, the last one the user's; pictures stand before the user's first.
        images: Whole files of PNG, JPEG or WebP.
        reference: What should be answered.
        options: Admissible answers, where the question is closed.
        labels: Terms that are true of the pictures.
        cluster: What items of one patient share, for resampling; empty where nothing is known. Not stored.
        rejection: Why it cannot be asked.
    """

    place: str
    task: str
    group: str
    turns: tuple[tuple[Role, str], ...] = ()
    images: tuple[bytes, ...] = field(default=(), repr=False)
    reference: str = ""
    options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    cluster: str = ""
    rejection: RejectedError | None = None

    @property
    def case_id(self) -> str:
        """What names it while it is in hand."""
        return self.place

    @property
    def item_hash(self) -> str:
        """SHA-256 of all that a score depends on."""
        asked = [self.task, self.group, self.turns, self.reference, self.options, self.labels]
        digest = hashlib.sha256(json.dumps(asked).encode())
        for image in self.images:
            digest.update(hashlib.sha256(image).digest())
        return digest.hexdigest()


def rejected_item(place: str, task: str, group: str, reason: Reason, detail: str) -> Item:
    """An item that cannot be asked."""
    return Item(place, task, group, rejection=RejectedError(reason, detail))


def item_or_rejection(place: str, task: str, group: str, make: Callable[[], Item]) -> Item:
    """A record's item; whatever the record provokes stays with it, and the file is read on.

    Args:
        place: Of the record.
        task: Of a rejected item.
        group: The same.
        make: Reads the record.

    Raises:
        StorageError: the store is away, which says nothing about the record.
    """
    try:
        return make()
    except RejectedError as err:
        return rejected_item(place, task, group, err.reason, err.detail)
    except StorageError:
        raise
    except Exception as err:  # the message would quote the record
        detail = f"the record cannot be read ({type(err).__name__})"
        return rejected_item(place, task, group, Reason.UNREADABLE, detail)


@dataclass(frozen=True, slots=True)
class Answered:
    """An item and what the model made of it; without the pictures.

    Attributes:
        item: As it was asked, its pictures left out.
        item_hash: Of the whole item.
        answer: What was written; ``None`` where it was rejected.
        rejection: Why.
        num_tokens: Tokens written.
    """

    item: Item
    item_hash: str
    answer: str | None
    rejection: RejectedError | None = None
    num_tokens: int = 0

    @property
    def is_scored(self) -> bool:
        """Whether the item counts: one that the model failed on does, as an empty answer."""
        return self.item.rejection is None

    @property
    def text(self) -> str:
        """What is scored."""
        return self.answer or ""


class Source(Protocol):
    """One file of a suite, or what is read like one; travels to the worker that reads it."""

    @property
    def name(self) -> str:
        """The file's name, as places carry it."""
        ...

    def items(self) -> Iterator[Item]:
        """Its items, in order, one for each record, a bad one as a rejected item.

        Raises:
            RejectedError: the whole file is of another form.
        """
        ...


def answers_table(answers: Sequence[Answered]) -> pa.Table:
    """The rows that are stored."""
    rows = [
        {
            **{name: getattr(one.item, name) for name in ("place", "task", "group", "reference")},
            "item_hash": one.item_hash,
            "options": list(one.item.options),
            "labels": list(one.item.labels),
            "answer": one.answer,
            "stage": one.rejection and ("answer" if one.is_scored else "read"),
            "reason": one.rejection and str(one.rejection.reason),
            "detail": one.rejection and one.rejection.detail,
            "num_tokens": one.num_tokens,
        }
        for one in answers
    ]
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def data_hash(answers: Sequence[Answered]) -> str:
    """Twelve hex digits that name the data: of all items' hashes, in any order of reading."""
    joined = "\n".join(sorted(one.item_hash for one in answers))
    return hashlib.sha256(joined.encode()).hexdigest()[:12]
