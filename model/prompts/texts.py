"""The texts that a model is asked with: one versioned record per task and language.

A record's id is ``<task>/<language>/<version>``, for example ``report/en/1``. Drafts are keyed by these ids,
so a changed text, system prompt or organ word asks for a new version; a test compares `PromptText.digest` and
the organ words with what was stored. Old versions need not be kept: their drafts stay readable.

echovlm-nano was trained on ``report/en/1`` and ``entities/en/1``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from sonoloop.platform.lexicon import ORGANS, Organ
from sonoloop.platform.lexicon.words_zh import ORGAN_WORDS_ZH

Task: TypeAlias = Literal["report", "findings", "impression", "diagnosis", "vqa", "entities", "caption"]
TASKS: tuple[Task, ...] = get_args(Task)
Language: TypeAlias = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

SYSTEM_PROMPTS: dict[Language, str] = {
    "en": "You draft ultrasound reports that a physician will review.",
    "zh": "你负责起草超声检查报告，报告随后由医师审核。",
}
_ORGAN_SENTENCES: dict[Language, str] = {"en": " Organ: {organ}.", "zh": "器官：{organ}。"}
_QUESTIONS: dict[Language, str] = {"en": "\nQuestion: {question}", "zh": "\n问题：{question}"}


def organ_sentence(organ: Organ, language: Language = "en") -> str:
    """What a prompt says about the organ, where it is known."""
    word = ORGAN_WORDS_ZH.get(organ, organ) if language == "zh" else organ
    return _ORGAN_SENTENCES[language].replace("{organ}", word)


@dataclass(frozen=True, slots=True)
class PromptText:
    """One task's prompt in one language.

    Attributes:
        task: What is asked for.
        language: Of the prompt and of the answer's prose; entity JSON keeps the lexicon's English words.
        version: Counts from 1; a changed text is another version.
        text: The request, before the organ's sentence.
        closing: What follows the organ's sentence; ``{question}`` stands for the asker's words.
    """

    task: Task
    language: Language
    version: int
    text: str
    closing: str = ""

    @property
    def id(self) -> str:
        """``<task>/<language>/<version>``."""
        return f"{self.task}/{self.language}/{self.version}"

    @property
    def system(self) -> str:
        """The system prompt that goes with it."""
        return SYSTEM_PROMPTS[self.language]

    def digest(self) -> str:
        """16 hex digits of everything that a version stands for, the organs' own words excepted."""
        parts = (self.system, self.text, _ORGAN_SENTENCES[self.language], self.closing)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def request(self, organ_hint: Organ | None, question: str | None = None) -> str:
        """The user turn's text.

        Args:
            organ_hint: The organ, where it is known.
            question: For ``vqa`` and for no other task.

        Raises:
            ValueError: a question is missing, empty, not asked for, or holds marks of the chat template.
        """
        named = self.text + (organ_sentence(organ_hint, self.language) if organ_hint else "")
        if "{question}" not in self.closing:
            if question is not None:
                raise ValueError(f"task {self.task} takes no question")
            return named + self.closing
        words = (question or "").strip()
        if not words or "<|" in words:  # a special token in it would end the turn or stand for an image
            raise ValueError(f"task {self.task} needs a question in plain words, without <| marks")
        return named + self.closing.replace("{question}", words)


_TEXTS = (
    PromptText(
        "report",
        "en",
        1,
        "Write the report of these ultrasound images as "
        '"Ultrasound findings: ... Ultrasound impression: ...". Name only what the images show.',
    ),
    PromptText(
        "entities",
        "en",
        1,
        "Now give the entities of this report as JSON. Describe the dominant lesion, and list its boxes as "
        "[image, left, top, right, bottom], images counted from 0, edges in percent of the image.",
    ),
    PromptText(
        "findings",
        "en",
        1,
        "Write the findings of these ultrasound images as plain text without a heading. "
        "Name only what the images show, and no diagnosis.",
    ),
    PromptText(
        "impression",
        "en",
        1,
        "Write the impression of these ultrasound images as plain text without a heading: "
        "what they mean, in few words.",
    ),
    PromptText(
        "diagnosis",
        "en",
        1,
        "Name the most likely diagnosis of these ultrasound images in one phrase of plain text.",
    ),
    PromptText(
        "vqa",
        "en",
        1,
        "Answer the question from these ultrasound images alone, in plain text. "
        "Say so where they do not show it.",
        _QUESTIONS["en"],
    ),
    PromptText(
        "caption",
        "en",
        1,
        "Describe what these ultrasound images show in one sentence of plain text.",
    ),
    PromptText(
        "report",
        "zh",
        1,
        "请书写这些超声图像的报告，格式为“超声所见：…… 超声提示：……”。只描述图像中可见的内容。",
    ),
    PromptText(
        "entities",
        "zh",
        1,
        "现在请以 JSON 给出本报告的实体，字段名与取值使用英文词表。描述主要病灶，并以 "
        "[image, left, top, right, bottom] 列出病灶框，图像从 0 开始编号，边缘以图像宽高的百分数表示。",
    ),
    PromptText(
        "findings",
        "zh",
        1,
        "请用纯文本书写这些超声图像的所见，不加标题。只描述图像中可见的内容，不作诊断。",
    ),
    PromptText("impression", "zh", 1, "请用纯文本书写这些超声图像的提示，不加标题，言简意赅。"),
    PromptText("diagnosis", "zh", 1, "请用一个短语写出这些超声图像最可能的诊断，使用纯文本。"),
    PromptText(
        "vqa",
        "zh",
        1,
        "请仅根据这些超声图像用纯文本回答问题；图像未显示的内容请如实说明。",
        _QUESTIONS["zh"],
    ),
    PromptText("caption", "zh", 1, "请用一句纯文本描述这些超声图像所显示的内容。"),
)
PROMPTS: dict[tuple[Task, Language], PromptText] = {(text.task, text.language): text for text in _TEXTS}


@dataclass(frozen=True, slots=True)
class DraftRecipe:
    """The two prompts that make a draft; its id is a draft's ``prompt_version``."""

    report: PromptText
    entities: PromptText

    @property
    def language(self) -> Language:
        """Of both prompts."""
        return self.report.language

    @property
    def id(self) -> str:
        """The prompts' ids, for example ``report/en/1+entities/en/1``."""
        return f"{self.report.id}+{self.entities.id}"


def draft_recipe(language: Language = "en") -> DraftRecipe:
    """The recipe that drafts in a language."""
    return DraftRecipe(PROMPTS["report", language], PROMPTS["entities", language])


PROMPT_VERSION = draft_recipe().id
SYSTEM_PROMPT = SYSTEM_PROMPTS["en"]
REPORT_PROMPT = PROMPTS["report", "en"].text
ENTITIES_PROMPT = PROMPTS["entities", "en"].text
ORGAN_SENTENCES: dict[Organ, str] = {organ: organ_sentence(organ) for organ in ORGANS}
