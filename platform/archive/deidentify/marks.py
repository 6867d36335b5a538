"""Texts that scanners draw and that name nobody: settings, scales, probes, views, organs, sides, makers.

A text is harmless only if every part of it is one of these, and if nothing in it could be a date, a time, an
age or a number of a person: unknown words are not asked what they mean. Words are English, German, French,
Spanish, Italian and Portuguese (``marks.toml``), compared without accents and capitals, and the lexicon's.

Seen on machines and in manuals of Philips, Siemens, GE, Canon, Samsung, Mindray, Esaote, Terason, SonoSite.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from functools import cache
from importlib.resources import files

from sonoloop.platform.lexicon import ORGANS
from sonoloop.platform.lexicon.vocabulary import BY_ORGAN

MAX_PARTS = 14
"""A text of more parts is a sentence."""

_UNITS = (
    r"%|k?hz|mhz|[cmµ]m[23]?|ml|cc|mmhg|db|dbfs|fps|bpm|spm|ms|s|sec|°|deg|mw|kpa|mpa"
    r"|m?lpmin|c?mps(?:ec)?"
)
_SIGNED = r"[+\-±]?"
_SCALE_NUMBER = re.compile(rf"{_SIGNED}\d{{1,3}}(?:\.\d)?")
"""Without key or unit: one decimal at most, for 17.05 is a birthday."""
_MEASURE = rf"(?:{_SIGNED}\d{{1,4}}(?:\.\d{{1,2}})?(?:{_UNITS}))|(?:\d{{4,5}}hz)"
_KEYED = (
    r"(?:tis|tib|tic|mi|ti|dr|gn?|fr|fq|frq|f|d|p|prf|wf|tgc|c|m|x|h|tv|st|tac|taci|sv|sri|xres|asc|edge|map|dyn|"
    rf"e|ee|fc|pers|per|nr|hd|ao|cri|srl|cc|b|pw|cw|v|hgen|hpen|hres|cfm?|cpa|pdi|s){_SIGNED}"
    rf"\d{{1,3}}(?:\.\d{{1,2}})?(?:{_UNITS})?"
)
_SETTING = r"(?:map|st|tint|edge|density|line|sm|cm|gray|grey|chroma|gradation|persistence)-?[a-h0-9]"
_PROBE = (
    r"(?:m?c|m?l|s|p|v|x|e|ec|ic|ev|e?vn?|rab|ric|rm|sl|sc|la|ca|pa|pvt|plt|pst|i|d)\d{1,2}(?:-\d{1,2}){1,2}"
    r"[a-z]{0,3}(?:-[a-z])?|\d{1,2}(?:c|l|s|p|v|ec|ev|e|vf|mc)\d{1,2}[a-z]{0,2}|\d{1,2}[lcsev]"
)
_PART = re.compile(rf"(?:{_MEASURE})|(?:{_KEYED})|(?:{_SETTING})|(?:{_PROBE})")
_NUMBER = re.compile(rf"{_SIGNED}\d{{1,4}}(?:\.\d{{1,2}})?")
_UNIT = re.compile(rf"(?:{_UNITS})")
_SEPARATORS = re.compile(r"[\s/,;:|()\[\]*=<>~]+|-{2,}|(?<=[^\W\d])-(?=[^\W\d])|(?<=[%a-z])-(?=\d)")
_RATE = re.compile(r"(?<=[ml])/(?=s\b|sec\b|min\b)")
_CLOCK_POSITION = re.compile(r"(?<![\d:/.\-])(?:1[0-2]|[1-9]):[03]0(?![\d:/.\-])")
"""Where a lesion of the breast lies: 3:00, 10:30."""
_DATE_OR_TIME = re.compile(
    r"\d\s*[./\-:]\s*\d+\s*[./\-:]\s*\d"  # 17.05.1949, 1:20:31
    r"|\d{1,2}\s*[:/]\s*\d"  # 05/49, 8:48
    r"|\d{6}"
)


def is_harmless(text: str) -> bool:
    """Whether a text as recognised is made of scanner marks only; an empty one is not."""
    plain = _CLOCK_POSITION.sub("clock", _RATE.sub("p", _plain(text)))
    if _DATE_OR_TIME.search(plain):
        return False
    parts = [part for part in _SEPARATORS.split(plain) if part.strip("-+._")]
    if not 1 <= len(parts) <= MAX_PARTS:
        return False
    return all(_is_mark(part, parts, place) for place, part in enumerate(parts))


def is_word(word: str) -> bool:
    """Whether one word is a scanner mark by itself, whatever its accents and capitals."""
    return _plain(word) in _words()


def _is_mark(part: str, parts: list[str], place: int) -> bool:
    part = part.strip("-._") or part
    if part in _words() or _PART.fullmatch(part):
        return True
    before, after = (parts[i] if 0 <= i < len(parts) else "" for i in (place - 1, place + 1))
    if _UNIT.fullmatch(part):
        return len(part) > 1 or not part.isalpha() or before[-1:].isdigit()
    if _UNIT.fullmatch(after):
        return bool(_NUMBER.fullmatch(part))
    # a number stands alone or beside its key; numbers in a row could be a date or a telephone
    beside = len(parts) == 1 or before in _words() or (not before and len(after) > 1 and after in _words())
    return beside and bool(_SCALE_NUMBER.fullmatch(part))


def _plain(text: str) -> str:
    """Small letters without accents, dashes and minus signs as one sign, decimal commas as points."""
    kept = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    kept = re.sub(r"[‐-―−⁻]", "-", kept.casefold())
    return re.sub(r"(?<=\d),(?=\d{1,2}\b)", ".", kept).strip()


@cache
def _words() -> frozenset[str]:
    groups = tomllib.loads((files(__package__) / "marks.toml").read_text("utf-8"))
    return frozenset(word for words in groups.values() for word in words.split()) | _lexicon_words()


def _lexicon_words() -> set[str]:
    """The organs, and every word that an entity of the lexicon may say."""
    said: set[str] = set(ORGANS)
    for entities in BY_ORGAN.values():
        for schema in entities.model_json_schema()["properties"].values():
            for kind in schema.get("anyOf", [schema]):
                said.update(map(str, kind.get("enum", ())))
    return {word for value in said for word in re.findall(r"[a-z]{3,}", value.casefold())}
