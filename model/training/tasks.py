"""One reviewed case as an example of several tasks, and imported conversations as examples.

The main task, ``report``, is the whole conversation of a draft: the report, then its entities. The others
keep a model that answers single questions: ``findings`` and ``impression`` alone, ``entities`` from a report
that is given and not learnt, and ``vqa``, a question about one field of the entities.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sonoloop.model.frames import Pixels
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.prompts import Content, Conversation, Language, Role, Task, message, turns
from sonoloop.model.prompts.questions import entity_answer, entity_question
from sonoloop.model.supervised import (
    SupervisedExample,
    Target,
    conversation_pieces,
    draft_pieces,
    masked_example,
    supervised_example,
)

IMAGE_MARK = "<image>"
"""Where an image stands in the text of an imported conversation."""


def task_of(case_id: str, tasks: Mapping[Task, float], *, seed: int, epoch: int) -> Task:
    """The task that a case is an example of in one epoch, drawn by the tasks' shares.

    It depends on these arguments alone, not on the order of the cases or the rank.
    """
    names = sorted(tasks)
    rng = random.Random(f"task-{seed}-{epoch}-{case_id}")
    return rng.choices(names, [tasks[name] for name in names])[0]


def task_example(
    processor: EchoVLMProcessor,
    case: PreparedCase,
    target: Target,
    task: Task,
    language: Language = "en",
    *,
    seed: int = 0,
    epoch: int = 0,
    weight: float = 1.0,
) -> SupervisedExample:
    """A reviewed case as an example of one task.

    Args:
        processor: Of the model that learns.
        case: Its images.
        target: What the reviewer wrote.
        task: One of ``recipes.LEARNT_TASKS``.
        language: Of prompts and prose.
        seed: Of the question, with ``epoch`` and the case's id.
        epoch: Counts from 0; each asks another question.
        weight: What the example's tokens count in the loss.

    Raises:
        ValueError: the case has no answer to such a task, or a box names an image that it does not have.
    """
    if task == "report":
        return replace(supervised_example(processor, case, target, language), weight=weight)
    if task == "entities":
        pieces = draft_pieces(processor, case, target, language)
        pieces = [(text, index == len(pieces) - 1) for index, (text, _) in enumerate(pieces)]
    else:
        rng = random.Random(f"question-{seed}-{epoch}-{case.case_id}")
        question, answer = _asked(case, target, task, language, rng)
        request = turns(task, language, len(case.image_grid_thw), case.organ_hint, question)
        pieces = conversation_pieces(processor, [*request, message("assistant", answer)], case.image_grid_thw)
    return masked_example(processor, pieces, case.patches, case.image_grid_thw, weight=weight)


def _asked(
    case: PreparedCase, target: Target, task: Task, language: Language, rng: random.Random
) -> tuple[str | None, str]:
    """The question, where the task has one, and its answer."""
    if task == "findings":
        return None, target.findings
    if task == "impression":
        return None, target.impression
    if task != "vqa":
        raise ValueError(f"a reviewed case has no answer to the task {task}")
    organ, known = target.entities.organ, target.entities.flat()
    if case.organ_hint is not None:
        del known["organ"]  # the prompt says it
    field = rng.choice(sorted(known))
    return entity_question(organ, field, language), entity_answer(organ, field, known[field], language)


def conversation_example(
    processor: EchoVLMProcessor,
    images: Sequence[Pixels],
    conversation: Sequence[tuple[Role, str]],
    *,
    weight: float = 1.0,
) -> SupervisedExample:
    """An imported conversation; the loss covers what the assistant wrote, in every turn.

    Args:
        processor: Of the model that learns.
        images: In the order of their marks.
        conversation: Role and text of each turn; each ``<image>`` in a user's text is one image. White space
            around a mark is dropped.
        weight: What the example's tokens count in the loss.

    Raises:
        ValueError: marks and images are not equally many, there is no image, a turn is empty or holds marks
            of the chat template, or the last turn is not the assistant's.
        RejectedError: an image cannot be used.
    """
    _read(conversation, len(images))
    case = prepare(processor, CaseInput("imported", tuple(images)), max_images=None)
    return prepared_conversation(processor, case, conversation, weight=weight)


def prepared_conversation(
    processor: EchoVLMProcessor,
    case: PreparedCase,
    conversation: Sequence[tuple[Role, str]],
    *,
    weight: float = 1.0,
) -> SupervisedExample:
    """As `conversation_example`, of images that are prepared already."""
    read = _read(conversation, len(case.image_grid_thw))
    pieces = conversation_pieces(processor, read, case.image_grid_thw)
    return masked_example(processor, pieces, case.patches, case.image_grid_thw, weight=weight)


def _read(conversation: Sequence[tuple[Role, str]], num_images: int) -> Conversation:
    read: Conversation = [{"role": role, "content": _contents(role, text)} for role, text in conversation]
    num_marks = sum(part["type"] == "image" for turn in read for part in turn["content"])
    if num_marks != num_images or not num_images:
        raise ValueError(f"expected one {IMAGE_MARK} per image, found {num_marks} for {num_images} images")
    return read


def _contents(role: Role, text: str) -> list[Content]:
    if not text.strip() or "<|" in text:  # a special token in it would end the turn or stand for an image
        raise ValueError(f"expected turns of text without <| marks, found another of the {role}")
    if role != "user":
        if IMAGE_MARK in text:
            raise ValueError(f"expected {IMAGE_MARK} in turns of the user, found it in one of the {role}")
        return [{"type": "text", "text": text}]
    contents: list[Content] = []
    for index, words in enumerate(text.split(IMAGE_MARK)):
        contents += [{"type": "image"}] if index else []
        contents += [{"type": "text", "text": words.strip()}] if words.strip() else []
    return contents
