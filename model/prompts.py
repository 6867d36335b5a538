"""What the model is asked and how its report is written: one conversation of two turns per case.

::

    system     SYSTEM_PROMPT
    user       <image> ... <image> + report prompt (names the organ where it is known)
    assistant  Ultrasound findings: ... Ultrasound impression: ...
    user       ENTITIES_PROMPT
    assistant  {"organ":"breast","lesion":"present",...,"boxes":[[0,12,34,56,78]]}

The second answer is what `sonoloop.platform.lexicon.generated_text` writes. Any change of a text below asks
for a new ``PROMPT_VERSION``: drafts are keyed by it.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, TypedDict

from sonoloop.platform.lexicon import ORGANS, Organ

PROMPT_VERSION = "report-entities-1"

SYSTEM_PROMPT = "You draft ultrasound reports that a physician will review."
REPORT_PROMPT = (
    "Write the report of these ultrasound images as "
    '"Ultrasound findings: ... Ultrasound impression: ...". Name only what the images show.'
)
ENTITIES_PROMPT = (
    "Now give the entities of this report as JSON. Describe the dominant lesion, and list its boxes as "
    "[image, left, top, right, bottom], images counted from 0, edges in percent of the image."
)
ORGAN_SENTENCES: dict[Organ, str] = {organ: f" Organ: {organ}." for organ in ORGANS}

Role = Literal["system", "user", "assistant"]


class Content(TypedDict, total=False):
    """One part of a message, as chat templates read it."""

    type: Literal["text", "image"]
    text: str


class Message(TypedDict):
    """One turn of a conversation, as chat templates read it."""

    role: Role
    content: list[Content]


Conversation: TypeAlias = list[Message]

_REPORT = re.compile(
    r"\s*ultrasound\s+findings\s*:\s*(?P<findings>\S.*?)\s*ultrasound\s+impression\s*:\s*(?P<impression>\S.*?)\s*",
    re.IGNORECASE | re.DOTALL,
)
_HEADING = re.compile(r"ultrasound\s+(?:findings|impression)\s*:", re.IGNORECASE)


def report_prompt(organ_hint: Organ | None) -> str:
    """The first user turn's text; the organ is named where it is known."""
    return REPORT_PROMPT + (ORGAN_SENTENCES[organ_hint] if organ_hint else "")


def message(role: Role, text: str, *, num_images: int = 0) -> Message:
    """One turn: its images first, then its text."""
    images: list[Content] = [{"type": "image"}] * num_images
    return {"role": role, "content": [*images, {"type": "text", "text": text}]}


def report_turns(num_images: int, organ_hint: Organ | None) -> Conversation:
    """The conversation up to the point where the report is to be written."""
    return [
        message("system", SYSTEM_PROMPT),
        message("user", report_prompt(organ_hint), num_images=num_images),
    ]


def entities_turns(num_images: int, organ_hint: Organ | None, report: str) -> Conversation:
    """The conversation up to the point where the entities are to be written, given the report's text."""
    return [
        *report_turns(num_images, organ_hint),
        message("assistant", report),
        message("user", ENTITIES_PROMPT),
    ]


def format_report(findings: str, impression: str) -> str:
    """The report as the model writes it: inverse of `parse_report`."""
    return f"Ultrasound findings: {findings.strip()} Ultrasound impression: {impression.strip()}"


def parse_report(text: str) -> tuple[str, str]:
    """Split a report into findings and impression.

    Headings may differ in case and inner whitespace; whitespace around the sections is dropped.

    Raises:
        ValueError: a heading is missing, doubled or out of order, a section is empty, or text stands before
            the first heading. The message carries no report text.
    """
    match = _REPORT.fullmatch(text)
    if match is None or len(_HEADING.findall(text)) != 2:
        raise ValueError(
            'expected "Ultrasound findings: ... Ultrasound impression: ..." with two full sections,'
            f" got {len(text)} characters of another form"
        )
    return match["findings"], match["impression"]
