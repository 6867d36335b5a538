from __future__ import annotations

import pytest

from sonoloop.model.prompts import (
    ENTITIES_PROMPT,
    LANGUAGES,
    PROMPTS,
    TASKS,
    Language,
    Task,
    entities_turns,
    report_prompt,
    report_turns,
    turns,
)
from sonoloop.platform.lexicon import ORGANS, Organ

REPORT = "Ultrasound findings: A. Ultrasound impression: B."


def test_the_default_texts_are_those_that_nano_was_trained_on() -> None:
    system, user = report_turns(1, "breast")
    assert system["content"] == [
        {"type": "text", "text": "You draft ultrasound reports that a physician will review."}
    ]
    assert user["content"][-1]["text"] == (
        "Write the report of these ultrasound images as "
        '"Ultrasound findings: ... Ultrasound impression: ...". '
        "Name only what the images show. Organ: breast."
    )
    assert entities_turns(1, "breast", REPORT)[-1]["content"][-1]["text"] == (
        "Now give the entities of this report as JSON. Describe the dominant lesion, and list its boxes as "
        "[image, left, top, right, bottom], images counted from 0, edges in percent of the image."
    )


@pytest.mark.parametrize("organ", ORGANS)
def test_the_prompt_names_the_organ_where_it_is_known(organ: Organ) -> None:
    assert f"Organ: {organ}." in report_prompt(organ)
    assert "Organ:" not in report_prompt(None)


def test_the_second_turn_continues_the_first() -> None:
    first = report_turns(2, "liver")
    second = entities_turns(2, "liver", REPORT)
    assert second[: len(first)] == first
    assert [turn["role"] for turn in second] == ["system", "user", "assistant", "user"]
    assert second[-1]["content"][-1]["text"] == ENTITIES_PROMPT


def test_images_stand_before_the_text_of_the_first_user_turn() -> None:
    user = report_turns(3, None)[1]
    assert [part["type"] for part in user["content"]] == ["image", "image", "image", "text"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_becomes_a_conversation_that_ends_with_the_user(task: Task, language: Language) -> None:
    question = "Is there a mass?" if task == "vqa" else None
    report = REPORT if task == "entities" else None
    conversation = turns(task, language, 2, "thyroid", question, report=report)
    assert conversation[0] == {
        "role": "system",
        "content": [{"type": "text", "text": PROMPTS[task, language].system}],
    }
    assert conversation[-1]["role"] == "user"
    assert conversation[-1]["content"][-1]["text"].startswith(PROMPTS[task, language].text)
    assert sum(part["type"] == "image" for turn in conversation for part in turn["content"]) == 2


def test_the_shortcuts_are_the_general_form() -> None:
    assert report_turns(2, "liver", language="zh") == turns("report", "zh", 2, "liver")
    assert entities_turns(2, "liver", "r", language="zh") == turns("entities", "zh", 2, "liver", report="r")


def test_entities_need_a_report_and_nothing_else_takes_one() -> None:
    with pytest.raises(ValueError, match="needs the report"):
        turns("entities", "en", 1, None)
    with pytest.raises(ValueError, match="takes no report"):
        turns("caption", "en", 1, None, report=REPORT)
