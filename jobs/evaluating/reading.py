"""Reading answers leniently: what an answer names, or None where that cannot be told."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

LOCATIONS = (
    *("upper left", "upper center", "upper right"),
    *("middle left", "center", "middle right"),
    *("lower left", "lower center", "lower right"),
    "not visible",
)
_OTHER_WORDS = {"middle center": "center", "central": "center"}
_LOCATION_WORDS = {**{word: word for word in LOCATIONS}, **_OTHER_WORDS}
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
_MIDDLE_FROM, _MIDDLE_TO = 0.45, 0.55
_AROUND = " \t\r\n.,;:!?'\"`()[]{}*_。，；：！？、（）【】“”‘’"
_YES, _NO = "yes", "no"
_JUDGEMENTS = {
    **dict.fromkeys(("yes", "true", "correct", "是", "对", "正确", "是的"), _YES),
    **dict.fromkeys(("no", "false", "incorrect", "否", "不", "错", "错误", "不是", "不对", "不正确"), _NO),
}
_LETTER = re.compile(
    r"\W*(?:(?:the )?(?:correct )?(?:answer|option)(?: is)?|答案(?:是|为)?|选项?)?\W*([A-Ha-h])(?![A-Za-z])",
    re.I,
)


def plain(text: str) -> str:
    """An answer without case, white space and marks around it."""
    return " ".join(text.casefold().split()).strip(_AROUND)


def read_choice(answer: str, options: Sequence[str]) -> str | None:
    """The one option that an answer is or names as whole words; ``None`` for none and for several.

    Of options that overlap, such as ``cancer`` and ``no cancer``, the longer one counts.
    """
    known = {plain(option): option for option in options}
    text = plain(answer)
    if text in known:
        return known[text]
    found = set(_mentions(text, known))
    return known[found.pop()] if len(found) == 1 else None


def read_terms(answer: str, terms: Sequence[str]) -> frozenset[str]:
    """All terms that a text names; what stands inside a longer term does not count on its own."""
    known = {plain(term): term for term in terms}
    return frozenset(known[found] for found in _mentions(plain(answer), known))


def read_location(answer: str) -> str | None:
    """The one of `LOCATIONS` that an answer names."""
    found = read_choice(answer.replace("-", " ").replace("_", " "), list(_LOCATION_WORDS))
    return None if found is None else _LOCATION_WORDS[found]


def location_of(x: float, y: float) -> str:
    """The location of a point in fractions of its picture.

    Source: the benchmark's published scorer, thresholds 0.45 and 0.55 (gurenolun/Dolphin-ai-bench,
    new_results/qwen_seg_eval.py).
    """
    low, high = _MIDDLE_FROM, _MIDDLE_TO
    row = "upper" if y < low else "middle" if y < high else "lower"
    column = "left" if x < low else "center" if x < high else "right"
    return "center" if (row, column) == ("middle", "center") else f"{row} {column}"


def read_number(answer: str) -> float | None:
    """The first number of an answer."""
    match = _NUMBER.search(answer)
    value = float(match.group()) if match else math.nan
    return value if math.isfinite(value) else None


def closed_class(text: str) -> str | None:
    """What a reference of one letter (A to H) or one judgement stands for; ``None`` for free text."""
    word = plain(text)
    if re.fullmatch("[a-h]", word):
        return word.upper()
    return _JUDGEMENTS.get(word)


def read_closed(answer: str, wanted: str) -> str | None:
    """The letter or judgement that an answer begins with, of the kind of the reference's class."""
    if wanted in (_YES, _NO):
        words = re.split(r"[\s,.;:!?，。；：！？、]", plain(answer), maxsplit=1)
        return _JUDGEMENTS.get(words[0].strip(_AROUND))
    match = _LETTER.match(answer)
    return match[1].upper() if match else None


def _mentions(text: str, known: Mapping[str, str]) -> list[str]:
    """Every known word that a text holds, the longer of overlapping ones; Latin words must be whole."""
    if not any(known):
        return []
    words = sorted(filter(None, known), key=len, reverse=True)
    pattern = "|".join(f"{_edge(word[0], '<')}{re.escape(word)}{_edge(word[-1], '')}" for word in words)
    return re.findall(pattern, text)


def _edge(char: str, side: str) -> str:
    return f"(?{side}![0-9a-z])" if char.isascii() and char.isalnum() else ""
