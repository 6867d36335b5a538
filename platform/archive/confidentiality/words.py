"""The words that a description may keep: the lexicon's, and those that name an examination."""

from __future__ import annotations

import re
from functools import cache

from sonoloop.platform.lexicon import BY_ORGAN, choice_fields, field_values

_EXAMINATION = """
    abdomen abdominal adnexa axilla bilateral bladder breast cardiac carotid doppler echo elastography
    follow follow-up gallbladder gynecology hepatic kidney left lesion limited liver lower mamma mammary
    node nodule obstetric ovarian ovary pancreas pelvic pelvis prostate renal right sonography spleen
    thyroid transabdominal transvaginal ultrasound upper us uterus vascular vein venous
"""


@cache
def known_words() -> frozenset[str]:
    """Lower case; none of them can tell who somebody is, unless it is that person's name."""
    values = (
        value
        for organ in BY_ORGAN
        for field in choice_fields(organ)
        for value in (organ, field, *field_values(organ, field))
    )
    return frozenset(_words(" ".join((_EXAMINATION, *values)).replace("_", " ")))


def only_known(text: str) -> list[str]:
    """The known words of a text, in order and as they were written."""
    return [word for word in _words(text) if word.casefold() in known_words()]


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[\w-]+", text) if not word.isdigit()]
