"""Reading published conversations: ``{id, image, conversations: [{from, value}]}``, JSON or JSON lines.

The publication (Asunatan/EchoVLM, collators/datasetV2.py) names this form, its pictures' folder and seven
regions; its test set is not published. Two fields are ours: ``region`` and ``task``. Where they are missing,
words of the file's path and of the first picture's say them. Further optional fields: ``options`` (admissible
answers) and ``labels`` (terms that are true of the pictures). Messages (``messages: [{role, content}]``,
``images``) are read the same way.

The last answer of a conversation is what the model must give; turns before it are shown as they are. As in
the publication, all pictures stand before the first question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sonoloop.jobs.evaluating.items import Item, item_or_rejection
from sonoloop.model.chosen import choose_images
from sonoloop.model.prompts import Role
from sonoloop.platform.errors import NothingToDoError, Reason, RejectedError
from sonoloop.platform.workspace import Store

REGIONS = ("breast", "gynaecology", "heart", "kidney", "liver", "thyroid", "vessel")
"""Source: collators/datasetV2.py."""
OTHER = "other"
REPORT, DIAGNOSIS, VQA = "report generation", "diagnosis", "VQA"
TASKS = (REPORT, DIAGNOSIS, VQA)
_REGION_WORDS = {
    **{region: region for region in REGIONS},
    **{"gynecology": "gynaecology", "thyriod": "thyroid", "cardiac": "heart", "renal": "kidney"},
    **{"乳腺": "breast", "妇科": "gynaecology", "心脏": "heart", "肾": "kidney", "肝": "liver"},
    **{"甲状腺": "thyroid", "血管": "vessel"},
}
_TASK_WORDS = {
    **dict.fromkeys(("vqa", "choice", "judge", "caption", "question"), VQA),
    **dict.fromkeys(("diagnosis", "impression"), DIAGNOSIS),
    **dict.fromkeys(("report", "finding"), REPORT),
}
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant"), "assistant"),
    "system": "system",
}
_IMAGE_MARK = re.compile(r"<image>\s*")


@dataclass(frozen=True)
class ConversationFile:
    """One file of conversations.

    Attributes:
        store: Where it and its pictures lie; pictures are named from here.
        path: The file's, within the store.
        max_images: Of one item; of more, evenly spaced ones are taken.
    """

    store: Store
    path: str
    max_images: int

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def items(self) -> Iterator[Item]:
        """One for each record."""
        data = self.store.read_bytes(self.path).decode("utf-8-sig")
        records = map(_record, data.split("\n")) if self.path.endswith(".jsonl") else _records(data)
        for number, record in enumerate(one for one in records if one != ""):
            place = f"{self.path}#{number}"
            yield item_or_rejection(place, _task(self.path, {}), OTHER, partial(self._item, place, record))

    def _item(self, place: str, record: Any) -> Item:
        if not isinstance(record, dict):
            raise RejectedError(Reason.UNREADABLE, "expected an object with conversations")
        turns = _turns(record)
        if len(turns) < 2 or [role for role, _ in turns[-2:]] != ["user", "assistant"] or not turns[-1][1]:
            raise RejectedError(Reason.UNREADABLE, "expected turns that end with a question and its answer")
        names = record.get("image", record.get("images")) or []
        names = [names] if isinstance(names, str) else names
        return Item(
            place=place,
            task=_task(self.path, record),
            group=_region(self.path, record, names),
            turns=turns[:-1],
            images=self._images(names),
            reference=turns[-1][1],
            options=_words(record, "options"),
            labels=_words(record, "labels"),
        )

    def _images(self, names: Any) -> tuple[bytes, ...]:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RejectedError(Reason.UNREADABLE, "expected image to be a path or a list of paths")
        chosen = [names[at] for at in choose_images(len(names), self.max_images)]
        return read_images(self.store, chosen)


def read_images(store: Store, names: list[str]) -> tuple[bytes, ...]:
    """The files of an item's pictures.

    Raises:
        RejectedError: one is not there.
    """
    check_below(names)
    try:
        return tuple(store.read_bytes(name) for name in names)
    except (FileNotFoundError, IsADirectoryError) as err:
        raise RejectedError(Reason.IMAGE_MISSING, "a picture of the item is not there") from err


def check_below(names: Iterable[str]) -> None:
    """See that pictures lie below the benchmark's folder.

    Raises:
        RejectedError: a path leads out of it, or is none.
    """
    if any("\0" in name or ".." in name.split("/") for name in names):
        raise RejectedError(Reason.IMAGE_MISSING, "a picture's path leads out of --path")


def conversation_files(store: Store, *, max_images: int) -> list[ConversationFile]:
    """All files of conversations below a folder.

    Raises:
        NothingToDoError: there is none.
    """
    root = store.root.rstrip("/") + "/"
    paths = (info.uri.removeprefix("s3://").removeprefix(root) for info in store.list_objects())
    found = [path for path in paths if path.lower().endswith((".json", ".jsonl"))]
    if not found:
        raise NothingToDoError(f"{store.uri} holds no .json or .jsonl file; check --path")
    return [ConversationFile(store, path, max_images) for path in found]


def _records(data: str) -> Iterator[Any]:
    found = json.loads(data)
    yield from found if isinstance(found, list) else [found]


def _record(line: str) -> Any:
    """One line's record; a line that is none is a record of the wrong kind."""
    try:
        return json.loads(line) if line.strip() else ""
    except ValueError:
        return None


def _turns(record: Mapping[str, Any]) -> tuple[tuple[Role, str], ...]:
    """Role and text of each turn, without the marks of pictures."""
    found: list[tuple[Role, str]] = []
    turns = record.get("conversations", record.get("messages")) or []
    for turn in turns if isinstance(turns, list) else [None]:
        if not isinstance(turn, dict):
            raise RejectedError(Reason.UNREADABLE, "expected turns that are objects")
        role = _ROLES.get(str(turn.get("from", turn.get("role"))))
        text = turn.get("value", turn.get("content"))
        if role is None or not isinstance(text, str):
            raise RejectedError(Reason.UNREADABLE, "expected turns of human, gpt or system with a text each")
        found.append((role, _IMAGE_MARK.sub("", text).strip()))
    return tuple(found)


def _task(path: str, record: Mapping[str, Any]) -> str:
    said = str(record.get("task", "")) or path.rpartition("/")[2]
    return _named(said, _TASK_WORDS) or VQA


def _region(path: str, record: Mapping[str, Any], images: Any) -> str:
    first = images[0] if isinstance(images, list) and images else ""
    for said in (record.get("region", record.get("organ", "")), path, first):
        if found := _named(str(said), _REGION_WORDS):
            return found
    return OTHER


def _named(text: str, words: Mapping[str, str]) -> str | None:
    return next((meaning for word, meaning in words.items() if word in text.lower()), None)


def _words(record: Mapping[str, Any], field: str) -> tuple[str, ...]:
    found = record.get(field) or []
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise RejectedError(Reason.UNREADABLE, f"expected {field} to be a list of texts")
    return tuple(found)
