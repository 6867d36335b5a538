"""Prompts as conversations, in the form that chat templates read.

A draft is one conversation of two turns::

    system     You draft ultrasound reports ...
    user       <image> ... <image> + report prompt (names the organ where it is known)
    assistant  Ultrasound findings: ... Ultrasound impression: ...
    user       entities prompt
    assistant  {"organ":"breast","lesion":"present",...,"boxes":[[0,12,34,56,78]]}

The second answer is what `sonoloop.platform.lexicon.generated_text` writes. Every other task is the first
three lines with its own prompt.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

from sonoloop.model.prompts.texts import PROMPTS, Language, Task
from sonoloop.platform.lexicon import Organ

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


def message(role: Role, text: str, *, num_images: int = 0) -> Message:
    """One turn: its images first, then its text."""
    images: list[Content] = [{"type": "image"}] * num_images
    return {"role": role, "content": [*images, {"type": "text", "text": text}]}


def turns(
    task: Task,
    language: Language,
    num_images: int,
    organ_hint: Organ | None,
    question: str | None = None,
    *,
    report: str | None = None,
) -> Conversation:
    """The conversation up to the point where a task's answer is to be written.

    Args:
        task: What is asked for.
        language: Of prompt and answer.
        num_images: Images of the case that the model sees.
        organ_hint: The organ, where it is known.
        question: For ``vqa``: what is asked.
        report: For ``entities``: the report that they are taken from.

    Raises:
        ValueError: a question or a report is missing, or given to a task that takes none.
    """
    if (report is None) == (task == "entities"):
        raise ValueError(
            "task entities needs the report" if report is None else f"task {task} takes no report"
        )
    prompt = PROMPTS[task, language]
    if report is None:
        request = prompt.request(organ_hint, question)
        return [message("system", prompt.system), message("user", request, num_images=num_images)]
    return [
        *turns("report", language, num_images, organ_hint),
        message("assistant", report),
        message("user", prompt.request(None, question)),  # the first turn has named the organ
    ]


def report_prompt(organ_hint: Organ | None, *, language: Language = "en") -> str:
    """The first user turn's text; the organ is named where it is known."""
    return PROMPTS["report", language].request(organ_hint)


def report_turns(num_images: int, organ_hint: Organ | None, *, language: Language = "en") -> Conversation:
    """The conversation up to the point where the report is to be written."""
    return turns("report", language, num_images, organ_hint)


def entities_turns(
    num_images: int, organ_hint: Organ | None, report: str, *, language: Language = "en"
) -> Conversation:
    """The conversation up to the point where the entities are to be written, given the report's text."""
    return turns("entities", language, num_images, organ_hint, report=report)
