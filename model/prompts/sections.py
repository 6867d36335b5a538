"""What a model wrote, as clean sections or not at all: nothing here is guessed.

Taken away, since it carries no statement: special tokens at the end, control and zero-width characters, one
code fence around everything, and around headings their marks (``**``, ``__``, ``#``, ``【】``, list marks, a
section's number) and rules (``---``). Full-width and ASCII colons are one, and so are line endings.

Refused with `ValueError`: text before the first heading ("Here is the report:"), a heading that is missing,
doubled, out of order, in another language or of another kind, a section without a letter or digit (a model
that copies the prompt writes "..."), openers and apologies in answers that have no heading, special tokens or
fences inside, unbalanced bold, broken characters, loops, and outputs past `MAX_CHARS`. A message never holds
the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import numpy as np
import numpy.typing as npt

from sonoloop.model.prompts.texts import Language, Task

MAX_CHARS = 20_000
"""Ten times a long report; also what keeps the searches below short."""
LOOP_COPIES, LOOP_CHARS = 4, 40
"""The same piece so often in a row, over at least so many characters, is a loop."""
MAX_PERIOD = 400
SENTENCE_COPIES, SENTENCE_CHARS = 10, 12
"""A sentence at least so long may come back among others, but not so often."""

_TITLES: dict[Language, tuple[str, str]] = {
    "en": (r"ultrasound\s+findings", r"ultrasound\s+impression"),
    "zh": ("超声所见", "超声提示"),
}
_FORMS: dict[Language, tuple[str, str]] = {
    "en": ("Ultrasound findings: ", " Ultrasound impression: "),
    "zh": ("超声所见：", " 超声提示："),
}
_OWN_TITLES: dict[Task, dict[Language, str]] = {
    "findings": {"en": r"(?:ultrasound\s+)?findings", "zh": "(?:超声)?所见"},
    "impression": {"en": r"(?:ultrasound\s+)?impression", "zh": "(?:超声)?提示"},
    "diagnosis": {"en": r"(?:ultrasound\s+)?diagnosis", "zh": "(?:超声)?诊断"},
    "caption": {"en": "caption", "zh": "(?:图像)?描述"},
    "vqa": {"en": "answer", "zh": "回答|答案|答"},
}
_BOLD = r"(?:\*\*|__)"
_NUMBER = r"(?:[(（]?(?:\d{1,2}|[一二三四五六七八九十])[)）.．、][ \t]*)"
_LINE_START = rf"^[ \t]*(?:\#{{1,6}}[ \t]*|[-*•>][ \t]+)?{_NUMBER}?"


def _heading(title: str) -> str:
    """A heading in any of its marks; without marks it needs a colon and may stand inside a line."""
    title = f"(?:{title})"
    alone = rf"(?:\#{{1,6}}[ \t]*{_NUMBER}?{_BOLD}?{title}{_BOLD}?|{_BOLD}{_NUMBER}?{title}{_BOLD})"
    bold = rf"{_BOLD}\s*{_NUMBER}?{title}\s*(?:[:：]\s*{_BOLD}|{_BOLD}[ \t]*[:：])"
    return (
        rf"(?:^[ \t]*{alone}[ \t]*[:：]?[ \t]*$"
        rf"|(?:{_LINE_START})?(?:【\s*{title}\s*】[ \t]*[:：]?|{bold}|(?<![^\W\d_]){title}\s*[:：]))"
    )


_FLAGS = re.IGNORECASE | re.MULTILINE
_HEADINGS = re.compile(
    "|".join(
        f"(?P<{language}{index}>{_heading(title)})"
        for language, titles in _TITLES.items()
        for index, title in enumerate(titles)
    ),
    _FLAGS,
)
_OWN_HEADINGS = {
    (task, language): re.compile(rf"(?:{_LINE_START}{_heading(title)})", _FLAGS)
    for task, titles in _OWN_TITLES.items()
    for language, title in titles.items()
}
_FIRST_NUMBER = re.compile(r"\W*(?:1|一)[)）.．、]")
_SECOND_NUMBER = re.compile(
    r"(?<=[.!?;。！？；])\s*[(（]?(?:2|二)[)）.．、]\s*\Z"
)  # "12." is no number of a section
_ENDS = re.compile(r"(?:\s*<\|(?:im_end|endoftext)\|>)+\s*\Z")
_FENCE = re.compile(r"\s*```[\w-]*[ \t]*\n(?P<inside>.*?)\n?[ \t]*```\s*", re.DOTALL)
_RULE = r"[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*"
_OUTER_RULES = re.compile(rf"\A(?:\s*^{_RULE}$)+|(?:^{_RULE}$\s*)+\Z", re.MULTILINE)
_STRAY_LINE = re.compile(rf"^(?:{_RULE}|[ \t]*\#{{1,6}}[ \t].*)$", re.MULTILINE)
_OPENER = re.compile(
    r"\W*(?:(?:sure|certainly|of course|okay|here (?:is|are))\b|好的[，,。！!]|当然|以下是|以下为)",
    re.IGNORECASE,
)
_APOLOGY = re.compile(
    r"\W*(?:(?:i(?:['’]m| am) (?:sorry|unable)|i can(?:no|['’])t|sorry|as an ai)\b"
    r"|抱歉|对不起|很遗憾|我无法|作为(?:一个|一名)?人工智能)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?;。！？；\n]+")


def format_report(findings: str, impression: str, *, language: Language = "en") -> str:
    """The report as the model writes it: inverse of `parse_report`."""
    first, second = _FORMS[language]
    return f"{first}{findings.strip()}{second}{impression.strip()}"


def parse_report(text: str, *, language: Language = "en") -> tuple[str, str]:
    """Split a report into findings and impression.

    Args:
        text: What the model wrote.
        language: Of its headings.

    Raises:
        ValueError: anything that the module's description refuses. The message carries no report text.
    """
    text = _normalised(text)
    found = list(_HEADINGS.finditer(text))
    if [match.lastgroup for match in found] != [f"{language}0", f"{language}1"]:
        raise _refusal(text, f"of another form ({len(found)} headings)", language)
    first, second = found
    if _OUTER_RULES.sub("", text[: first.start()]).strip():
        raise _refusal(text, "with text before the first heading", language)
    findings = text[first.end() : second.start()]
    if _FIRST_NUMBER.match(first.group()):
        findings = _SECOND_NUMBER.sub("", findings)
    return _section(findings, "findings"), _section(text[second.end() :], "impression")


def parse_section(text: str, task: Task, *, language: Language = "en") -> str:
    """The answer to a task of one section; the task's own heading at its start is dropped.

    Raises:
        ValueError: a task of another form, or anything that the module's description refuses. The message
            carries no report text.
    """
    if (task, language) not in _OWN_HEADINGS:
        raise ValueError(f"expected a task of one section, got {task}")
    text = _normalised(text)
    if _OPENER.match(text) or (
        task != "vqa" and _APOLOGY.match(text)
    ):  # "I cannot see it" answers a question
        raise ValueError(f"expected plain text for {task}, got an opener or an apology")
    own = _OWN_HEADINGS[task, language]
    match = own.match(text)
    answer = text[match.end() :] if match else text
    if _HEADINGS.search(answer) or own.search(answer):
        raise ValueError(f"expected plain text for {task}, got further headings")
    return _section(answer, task)


def _normalised(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise ValueError(f"expected at most {MAX_CHARS} characters, got {len(text)}")
    text = re.sub(r"\r\n|[\r\v\f\x85\u2028\u2029]", "\n", _ENDS.sub("", text))
    kinds = {char: unicodedata.category(char) for char in set(text)}
    if "\ufffd" in kinds or "Cs" in kinds.values():
        raise ValueError("expected text, got broken characters")
    dropped = {ord(char) for char, kind in kinds.items() if kind in ("Cc", "Cf") and char not in "\n\t"}
    text = text.translate(dict.fromkeys(dropped)).strip()
    fence = _FENCE.fullmatch(text)
    text = fence["inside"].strip() if fence else text
    if "```" in text or "<|" in text:
        raise ValueError("expected text, got code fences or special tokens inside it")
    if _loops(text):
        raise ValueError(f"expected a text, got a loop in {len(text)} characters")
    return text


def _loops(text: str) -> bool:
    """Whether the same piece comes again and again."""
    words = " ".join(text.split())
    sentences = Counter(sentence.strip() for sentence in _SENTENCE_END.split(text))
    if any(n >= SENTENCE_COPIES and len(sentence) >= SENTENCE_CHARS for sentence, n in sentences.items()):
        return True
    codes = np.frombuffer(words.encode("utf-32-le"), dtype=np.uint32)
    return any(
        _longest_run(codes[period:] == codes[:-period]) + period >= max(LOOP_COPIES * period, LOOP_CHARS)
        for period in range(1, min(MAX_PERIOD, len(codes) // LOOP_COPIES) + 1)
    )


def _longest_run(equal: npt.NDArray[np.bool_]) -> int:
    """Length of the longest run of True."""
    gaps = np.flatnonzero(~equal)
    edges = np.concatenate(([-1], gaps, [len(equal)]))
    return int(np.diff(edges).max()) - 1


def _section(text: str, name: str) -> str:
    section = _OUTER_RULES.sub("", text).strip()
    if not any(char.isalnum() for char in section):
        raise ValueError(
            f"expected text for the section {name}, got {len(section)} characters without a word"
        )
    if section.count("**") % 2 or _STRAY_LINE.search(section):
        raise ValueError(
            f"expected plain text in the section {name}, got further headings, rules or open marks"
        )
    return section


def _refusal(text: str, what: str, language: Language) -> ValueError:
    first, second = (title.strip() for title in _FORMS[language])
    return ValueError(f'expected "{first} ... {second} ...", got {len(text)} characters {what}')
