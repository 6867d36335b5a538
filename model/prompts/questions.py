"""Questions about one field of a case's entities, in the lexicon's words, and what answers them.

A question names all values that the field may have, so that an answer is one of them, word for word.
"""

from __future__ import annotations

from sonoloop.model.prompts.texts import Language
from sonoloop.platform.labelstudio.page_words import title, word
from sonoloop.platform.lexicon import BY_ORGAN, Organ, field_values, numeric_fields, qualifiers

_WORDS = {
    "lv": "left ventricular",
    "la": "left atrial",
    "rv": "right ventricular",
    "ra": "right atrial",
    "bi": "BI-RADS",
    "o": "O-RADS",
    "rads": "category",
}


def entity_question(organ: Organ, field: str, language: Language = "en") -> str:
    """Ask for one field of a case's entities.

    Raises:
        KeyError: the organ has no such field.
    """
    ask = _asked_in_chinese if language == "zh" else _asked_in_english
    if field in numeric_fields(organ):
        return ask(organ, field, [])
    # the organ's own model admits one organ alone
    values = tuple(BY_ORGAN) if field == "organ" else field_values(organ, field)
    return ask(organ, field, [word(organ, field, value, language) for value in values])


def entity_answer(organ: Organ, field: str, value: str, language: Language = "en") -> str:
    """How a value of `Entities.flat` answers `entity_question`."""
    return value if field in numeric_fields(organ) else word(organ, field, value, language)


def _asked_in_english(organ: Organ, field: str, values: list[str]) -> str:
    of_lesion = field in (*BY_ORGAN[organ].descriptors(), *qualifiers(organ))
    words = " ".join(_WORDS.get(part, part) for part in field.removesuffix("_mm").split("_"))
    subject = f"{words} of the {'lesion' if of_lesion else organ}"
    if not values:
        return f"What is the {subject} in whole mm?"
    listed = f"{', '.join(values[:-1])} or {values[-1]}"
    known = {"organ": "Which organ do the images show", "lesion": "What can be said of a lesion"}
    return f"{known.get(field, f'What is the {subject}')}: {listed}?"


def _asked_in_chinese(organ: Organ, field: str, values: list[str]) -> str:
    name = title(organ, field, "zh").removesuffix("，mm")
    return f"{name}符合以下哪一项：{'、'.join(values)}？" if values else f"{name}是多少毫米（整数）？"
