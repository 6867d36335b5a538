"""The two formats of conversations that people have, read strictly.

1. The published one: ``{id, image | images, conversations: [{from: human | gpt | system, value}]}``.
2. Messages: ``{id, images, messages: [{role: user | assistant | system, content}]}``, where ``content`` is a
   text, or a list of ``{type: text, text}`` and ``{type: image}``; the latter may name its image itself.

In both, ``<image>`` in a user's text stands for the next image. Further keys are passed over, but for
``patient`` or ``patient_id`` and ``group``, which say what must not be split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.records import Turn

PLACEHOLDER = "<image>"
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_FORMATS = (("conversations", "from", "value"), ("messages", "role", "content"))
"""Where the turns are, and in each turn who speaks and what is said."""
CONTROL = "<|"
"""Begins tokens of the chat template: in a text they would end its turn, or make images of it."""


@dataclass(frozen=True)
class Conversation:
    """An entry of a file, checked; ``images`` are names, one for each placeholder."""

    source_id: str | None = field(repr=False)
    turns: tuple[Turn, ...] = field(repr=False)
    images: tuple[str, ...] = field(repr=False)
    patient: str | None = field(default=None, repr=False)
    group: str | None = field(default=None, repr=False)


def parse_conversation(entry: object) -> Conversation:
    """Read an entry of either format.

    Raises:
        RejectedError: ``BAD_ENTRY``, ``UNKNOWN_ROLE``, ``IMAGE_COUNT``, ``EMPTY_ANSWER`` or ``NO_ANSWER``;
            the message never quotes the entry.
    """
    if not isinstance(entry, Mapping):
        raise RejectedError(Reason.BAD_ENTRY, f"expected an object, found {type(entry).__name__}")
    turns, inline = _turns(entry)
    listed = _images(entry)
    if inline and listed:
        raise RejectedError(Reason.BAD_ENTRY, "images are named both in the turns and beside them")
    images = inline or listed
    _check(turns, num_images=len(images))
    patient = _name(entry, "patient") or _name(entry, "patient_id")
    return Conversation(_name(entry, "id"), turns, images, patient, _name(entry, "group"))


def _turns(entry: Mapping[str, Any]) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """The turns, and images that are named in them."""
    format_of = next((names for names in _FORMATS if names[0] in entry), None)
    if format_of is None:
        raise RejectedError(Reason.BAD_ENTRY, "expected the key conversations or messages, found neither")
    key, role_key, text_key = format_of
    said = entry[key]
    if not isinstance(said, list) or not said or not all(isinstance(one, Mapping) for one in said):
        raise RejectedError(Reason.BAD_ENTRY, f"{key} must be a list of one turn or more")
    found, images = [], list[str]()
    for number, one in enumerate(said, 1):
        role = one.get(role_key)
        if not isinstance(role, str) or role not in _ROLES:
            raise RejectedError(
                Reason.UNKNOWN_ROLE, f"turn {number}: {role_key} must be one of {', '.join(_ROLES)}"
            )
        text, named = _content(one.get(text_key), number)
        found.append(Turn.model_validate({"role": _ROLES[role], "text": text}))
        images += named
    return tuple(found), tuple(images)


def _content(content: object, number: int) -> tuple[str, list[str]]:
    """A turn's text with placeholders, and the images that it names itself."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise RejectedError(Reason.BAD_ENTRY, f"turn {number}: expected a text or a list of parts")
    texts, images = [], []
    for part in content:
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") == "image":
            texts.append(PLACEHOLDER)
            if isinstance(named := part.get("image", part.get("path")), str):
                images.append(named)
        else:
            raise RejectedError(Reason.BAD_ENTRY, f"turn {number}: a part is neither text nor image")
    return "".join(texts), images


def _images(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The images beside the turns, each a name or an object with a path."""
    value = entry.get("images", entry.get("image"))
    values = [] if value is None else value if isinstance(value, list) else [value]
    names = [one.get("path") if isinstance(one, Mapping) else one for one in values]
    if not all(isinstance(name, str) and name for name in names):
        raise RejectedError(Reason.BAD_ENTRY, "every image must be named by its path")
    return tuple(map(str, names))


def _check(turns: Sequence[Turn], *, num_images: int) -> None:
    """What a conversation must be to be learned from."""
    spoken = turns[1:] if turns[0].role == "system" else turns
    if not spoken or spoken[-1].role != "assistant":
        raise RejectedError(Reason.NO_ANSWER, "the last turn must be the assistant's")
    if spoken[0].role != "user" or any(one.role == other.role for one, other in pairwise(spoken)):
        raise RejectedError(Reason.BAD_ENTRY, "turns must alternate, the user's first")
    for number, turn in enumerate(turns, 1):
        if not turn.text.strip():
            reason = Reason.EMPTY_ANSWER if turn.role == "assistant" else Reason.BAD_ENTRY
            raise RejectedError(reason, f"turn {number}, the {turn.role}'s, is empty")
        if turn.role != "user" and PLACEHOLDER in turn.text:
            raise RejectedError(
                Reason.BAD_ENTRY, f"turn {number}, the {turn.role}'s, has a placeholder of an image"
            )
        if CONTROL in turn.text:
            raise RejectedError(
                Reason.BAD_ENTRY, f"turn {number} has {CONTROL}, which begins tokens of the chat template"
            )
    num_placeholders = sum(turn.text.count(PLACEHOLDER) for turn in turns)
    if num_placeholders != num_images:
        raise RejectedError(
            Reason.IMAGE_COUNT, f"{num_placeholders} placeholders in the texts, {num_images} images"
        )
    if not num_images:
        raise RejectedError(Reason.IMAGE_COUNT, "expected an image: only what shows one is learned from")


def _name(entry: Mapping[str, Any], key: str) -> str | None:
    """A name or number of the entry as text."""
    value = entry.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RejectedError(Reason.BAD_ENTRY, f"{key} must be a text or a whole number")
    return str(value)
