"""Chinese names of the organs, for prompts and for pages."""

from __future__ import annotations

from sonoloop.platform.lexicon.base import Organ

ORGAN_WORDS_ZH: dict[Organ, str] = {
    "breast": "乳腺",
    "thyroid": "甲状腺",
    "liver": "肝脏",
    "kidney": "肾脏",
    "ovary": "卵巢",
    "heart": "心脏",
    "vessel": "血管",
}
"""An organ that is not here yet is named in English; a test asks for its word."""
