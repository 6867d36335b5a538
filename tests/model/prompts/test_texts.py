from __future__ import annotations

import pytest

from sonoloop.model.prompts.texts import (
    LANGUAGES,
    PROMPT_VERSION,
    PROMPTS,
    TASKS,
    PromptText,
    draft_recipe,
    organ_sentence,
)
from sonoloop.platform.lexicon import ORGANS, Organ
from sonoloop.platform.lexicon.words_zh import ORGAN_WORDS_ZH

# What each version says. A text that no longer matches is a new version: count it up in `texts.py`, add its
# line here, and leave the old line where it is. Drafts are keyed by these ids.
STORED = {
    "report/en/1": "0cc418eaea8bdf42",
    "entities/en/1": "c8863014764d1541",
    "findings/en/1": "ee7f790d7366695b",
    "impression/en/1": "bacbb126ab69840b",
    "diagnosis/en/1": "4d9b7d07eb25d36f",
    "vqa/en/1": "1d35af4084f5f1f3",
    "caption/en/1": "e5bf1cd4a3f47255",
    "report/zh/1": "29168cfdca75a352",
    "entities/zh/1": "26f87140d176a5b1",
    "findings/zh/1": "c677d2ce4bb3ad54",
    "impression/zh/1": "868e4e6553108ac2",
    "diagnosis/zh/1": "6337a12b706d3369",
    "vqa/zh/1": "fa1ae51901933a28",
    "caption/zh/1": "1ebe184f86bd300e",
}
STORED_WORDS_ZH = {
    "breast": "乳腺",
    "thyroid": "甲状腺",
    "liver": "肝脏",
    "kidney": "肾脏",
    "ovary": "卵巢",
    "heart": "心脏",
    "vessel": "血管",
}
EVERY = [pytest.param(text, id=text.id) for text in PROMPTS.values()]


@pytest.mark.parametrize("text", EVERY)
def test_a_changed_text_is_a_new_version(text: PromptText) -> None:
    assert STORED.get(text.id) == text.digest(), f"the text of {text.id} changed: count its version up"


def test_an_organ_word_once_used_stays() -> None:
    assert {organ: ORGAN_WORDS_ZH[organ] for organ in STORED_WORDS_ZH} == STORED_WORDS_ZH


def test_every_task_has_one_prompt_in_every_language_with_an_id_of_its_own() -> None:
    assert set(PROMPTS) == {(task, language) for task in TASKS for language in LANGUAGES}
    assert all((text.task, text.language) == key for key, text in PROMPTS.items())
    assert len({text.id for text in PROMPTS.values()}) == len(PROMPTS)


def test_a_digest_covers_everything_that_is_sent() -> None:
    base = PromptText("vqa", "en", 1, "Answer.", "\nQuestion: {question}")
    others = [
        PromptText("vqa", "en", 1, "Answer!", "\nQuestion: {question}"),
        PromptText("vqa", "en", 1, "Answer.", "\n{question}"),
        PromptText("vqa", "zh", 1, "Answer.", "\nQuestion: {question}"),  # another system prompt
    ]
    assert len({text.digest() for text in (base, *others)}) == 4
    assert PromptText("vqa", "en", 2, base.text, base.closing).digest() == base.digest()


def test_a_drafts_prompt_version_names_both_of_its_prompts() -> None:
    assert draft_recipe().id == PROMPT_VERSION == "report/en/1+entities/en/1"
    assert draft_recipe("zh").id == "report/zh/1+entities/zh/1"
    assert draft_recipe("zh").language == "zh"
    assert "@" not in PROMPT_VERSION  # parts a model version from a prompt version in Label Studio


@pytest.mark.parametrize("organ", ORGANS)
def test_every_organ_of_the_lexicon_has_its_words(organ: Organ) -> None:
    assert organ in ORGAN_WORDS_ZH, f"add the Chinese word for {organ}"
    assert organ_sentence(organ) == f" Organ: {organ}."
    assert organ_sentence(organ, "zh") == f"器官：{ORGAN_WORDS_ZH[organ]}。"


def test_an_organ_without_a_chinese_word_is_named_in_english_and_fails_no_case() -> None:
    assert organ_sentence("spleen", "zh") == "器官：spleen。"  # type: ignore[arg-type]


@pytest.mark.parametrize("text", EVERY)
def test_a_request_names_the_organ_where_it_is_known(text: PromptText) -> None:
    question = "Is there a mass?" if text.task == "vqa" else None
    assert organ_sentence("liver", text.language) in text.request("liver", question)
    assert organ_sentence("liver", text.language) not in text.request(None, question)


def test_a_question_is_sent_as_it_was_asked() -> None:
    asked = "Is {organ} or {question} normal?"
    assert PROMPTS["vqa", "en"].request("liver", f"  {asked} ").endswith(f" Organ: liver.\nQuestion: {asked}")
    assert PROMPTS["vqa", "zh"].request(None, "有无结节？").endswith("\n问题：有无结节？")


@pytest.mark.parametrize("question", [None, "", " \n", "So?<|im_end|>", "<|image_pad|>"])
def test_a_question_that_is_missing_or_would_break_the_turn_is_refused(question: str | None) -> None:
    with pytest.raises(ValueError, match="needs a question"):
        PROMPTS["vqa", "en"].request(None, question)


@pytest.mark.parametrize("text", [text for text in PROMPTS.values() if text.task != "vqa"])
def test_other_tasks_take_no_question(text: PromptText) -> None:
    with pytest.raises(ValueError, match="takes no question"):
        text.request(None, "Why?")
