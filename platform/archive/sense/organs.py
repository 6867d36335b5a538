"""From a header's words to an organ of the lexicon."""

from __future__ import annotations

import re

from sonoloop.platform.lexicon import Organ

_WORDS: dict[Organ, str] = {
    "breast": r"breast|mamma|mammary",
    "thyroid": r"thyroid",
    "liver": r"liver|hepat\w*",
    "kidney": r"kidneys?|renal",
    # not "pelvis": a header's word for bladder, prostate and renal pelvis too
    "ovary": r"ovary|ovaries|ovarian|adnexa\w*|uterus|uterine|gyna?ecolog\w*|transvaginal|endovaginal",
    "heart": r"heart|cardiac|echocardio\w*",
    "vessel": r"carotids?|carotis",
}


def organ_from_text(text: str) -> Organ | None:
    """The one organ that the text names, or ``None`` where it names none or several."""
    named = [organ for organ, words in _WORDS.items() if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE)]
    return named[0] if len(named) == 1 else None
