"""What in an imported text may say whom it is of: a text with such a thing is not taken.

The names are not known here, as they are for pixels, whose header tells them; only an entry's own patient is.
So what is looked for is how identifiers are written: a day, a long number, an address, a field of a form, a
title before a name. Sizes (``1.2 x 3.4 cm``), ranges (``110-120 mmHg``), grades (``BI-RADS 4a``), clock
positions (``10:30``), ages and years alone stay. A name without any of these around it is not found.
"""

from __future__ import annotations

import re

from sonoloop.platform.archive.deidentify.identifiers import MONTHS
from sonoloop.platform.archive.deidentify.marks import is_word
from sonoloop.platform.conversations.formats import Conversation
from sonoloop.platform.errors import Reason, RejectedError

RULES_VERSION = 1
"""Of this search; an imported set is made under one of them."""

_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
_ORDINAL = r"(?:st|nd|rd|th|\.)?"
_NAMED = rf"(?:{'|'.join(sorted(MONTHS.keys() - {'may'}, key=len, reverse=True))})\b\.?"
"""Without ``may``: of segment 5 it may be said that it may be fatty."""
_NO_UNIT = r"(?![\d.]*\s*(?:[cm]m|ml|x|×|\*|%)(?![a-z]))(?!\d)"
_FORMS = {
    "a date": re.compile(
        rf"(?<![\d.])(?:{_DAY}([./-]){_MONTH}\1(?:{_YEAR}|\d\d)|{_MONTH}([./-]){_DAY}\2{_YEAR}"
        rf"|{_YEAR}([./-]){_MONTH}\3{_DAY}){_NO_UNIT}"
        rf"|{_YEAR}\s*年\s*{_MONTH}\s*月"
        rf"|\b{_DAY}{_ORDINAL}\s+(?:of\s+|de\s+)?(?:{_NAMED}|may,?\s+{_YEAR})"
        rf"|\b{_NAMED}\s+{_DAY}{_ORDINAL}{_NO_UNIT}|\bmay\s+{_DAY}{_ORDINAL},?\s+{_YEAR}",
        re.IGNORECASE,
    ),
    "a long number": re.compile(
        r"\d{6}|\b\d{2,4}(?:[ -]\d{2,4}){3,}|\b\d{3}[ -]\d{3}[ -]\d{3,4}\b|\+\d{2,3}(?:[ -]\d{2,}){2,}"
    ),
    "an address": re.compile(r"[\w.+-]+@[\w-]+\.\w|https?://|www\.", re.IGNORECASE),
    "a field of a form": re.compile(
        r"\b(?:patient(?:'s)?\s*(?:name|id|no|number)|(?:sur|first |last |family )name|(?:case|exam)\s*id|mrn"
        r"|medical\s+record\s*(?:no|number)?|accession\s*(?:no|number)?|d\.?o\.?b|date\s+of\s+birth|born"
        r"|geb(?:oren)?|phone|tel|address|ssn|nhs\s*(?:no|number)?)\b\s*\.?\s*[:#=：]\s*\S"
        r"|^\s*name\s*[:=]\s*\S"
        r"|(?:姓名|住院号|门诊号|病历号|检查号|超声号|身份证号?|出生日期|电话|地址)\s*[:：]\s*\S",
        re.IGNORECASE | re.MULTILINE,
    ),
    "a title before a name": re.compile(
        r"\b(?:Mr|Mrs|Ms|Dr|Prof|Herr|Frau|Mme)\b\.?\s+(?:[A-Z]\.\s*)*[A-Z][a-z]+"
    ),
}
_NO_NAMES = frozenset({"patient", "case", "subject", "study", "person", "anonymous", "unknown", "none"})
_MIN_LETTERS = 4
"""Of a word of the entry's own patient; shorter ones are in any text."""


def check_texts(said: Conversation) -> None:
    """See that no turn says whom it is of.

    Raises:
        RejectedError: ``PHI_SUSPECTED``; the message names the turn and the kind, never what was found.
    """
    own = _words_of(said.patient or "")
    for number, turn in enumerate(said.turns, 1):
        found = next((kind for kind, form in _FORMS.items() if form.search(turn.text)), None)
        if not own.isdisjoint(_tokens(turn.text)):
            found = "the entry's own patient"
        if found is not None:
            raise RejectedError(
                Reason.PHI_SUSPECTED,
                f"turn {number}, the {turn.role}'s, holds what looks like {found}; take it out, and import "
                "the file under another --name",
            )


def _words_of(patient: str) -> frozenset[str]:
    """The words of a patient's name or number that stand for nothing else."""
    return frozenset(
        word
        for word in _tokens(patient)
        if len(word) >= _MIN_LETTERS and word not in _NO_NAMES and not is_word(word)
    )


def _tokens(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", text.casefold()))
