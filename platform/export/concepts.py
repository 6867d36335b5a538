"""The lexicon's fields and values as coded concepts, and a case's entities as statements of them.

Values take their code from `sonoloop.platform.lexicon.codes`. What has no certain standard code is coded in a
scheme of our own, so that a reader never takes it for one.

Source of the fields' codes: DICOM PS3.16, Annex D (DCM) and the context groups that the lexicon cites.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sonoloop.platform.lexicon import (
    BY_ORGAN,
    Entities,
    Organ,
    ThyroidEntities,
    numeric_fields,
    ordered_fields,
)
from sonoloop.platform.lexicon.codes import code_of

LOCAL_SCHEME = "99SONOLOOP"
MAX_MEANING = 64


class Concept(NamedTuple):
    """A coded concept; ``scheme`` as DICOM designates it."""

    scheme: str
    value: str
    meaning: str


LESION = Concept("SCT", "52988006", "Lesion")
FINDING_SITE = Concept("SCT", "363698007", "Finding Site")
FINDINGS = Concept("DCM", "121070", "Findings")
IMPRESSION = Concept("DCM", "121073", "Impression")
LONG_AXIS = Concept("SCT", "103339001", "Long Axis")
_FIELDS: dict[tuple[Organ | None, str], Concept] = {
    (None, "lesion"): LESION,
    (None, "size_mm"): LONG_AXIS,
    (None, "laterality"): Concept("SCT", "272741003", "Laterality"),
    ("breast", "orientation"): Concept("DCM", "111354", "Orientation"),
    ("breast", "margin"): Concept("DCM", "111037", "Margins"),
    ("breast", "echo_pattern"): Concept("DCM", "111360", "Echo pattern"),
    ("breast", "posterior_features"): Concept("DCM", "111366", "Posterior acoustic features"),
    ("breast", "bi_rads"): Concept("DCM", "111005", "Assessment Category"),
    ("breast", "quadrant"): Concept("DCM", "111048", "Quadrant location"),
    ("breast", "clock_position"): Concept("DCM", "111014", "Clockface or region"),
    ("breast", "nipple_distance_mm"): Concept("DCM", "121242", "Distance from nipple"),
    ("heart", "aortic_stenosis"): Concept("SCT", "60573004", "Aortic stenosis"),
    ("heart", "aortic_regurgitation"): Concept("SCT", "60234000", "Aortic regurgitation"),
    ("heart", "mitral_stenosis"): Concept("SCT", "79619009", "Mitral stenosis"),
    ("heart", "mitral_regurgitation"): Concept("SCT", "48724000", "Mitral regurgitation"),
    ("heart", "tricuspid_regurgitation"): Concept("SCT", "111287006", "Tricuspid regurgitation"),
    ("heart", "pericardial_effusion"): Concept("SCT", "373945007", "Pericardial effusion"),
}
_LESION_STATUS = {
    "present": Concept("SCT", "52101004", "Present"),
    "absent": Concept("SCT", "272519000", "Absent"),
}
SITES = ("laterality", "quadrant", "segment", "lobe", "site")
"""Fields whose values are places in the organ."""


@dataclass(frozen=True)
class Statement:
    """One field of a case's entities: a word of the vocabulary, or whole millimetres."""

    organ: Organ
    field: str
    value: str | int

    @property
    def name(self) -> Concept:
        """What is stated about."""
        known = _FIELDS.get((self.organ, self.field)) or _FIELDS.get((None, self.field))
        words = self.field.replace("_", " ")
        return known or Concept(LOCAL_SCHEME, _slug(words), words)

    @property
    def concept(self) -> Concept:
        """What is stated; only for words."""
        word = str(self.value)
        if self.field == "lesion" and word in _LESION_STATUS:
            return _LESION_STATUS[word]
        code = code_of(self.organ, self.field, word)
        if code is not None:
            return Concept(code.scheme, code.value, code.meaning)
        meaning = word if word[0].isalpha() else f"{self.field.replace('_', ' ')} {word}"
        return Concept(LOCAL_SCHEME, f"{_slug(self.field)}.{_slug(word)}", meaning[:MAX_MEANING])

    @property
    def is_about_lesion(self) -> bool:
        """Whether it describes the lesion, and not the organ."""
        return self.field in _lesion_fields(self.organ)


def organ_concept(organ: Organ) -> Concept:
    """The organ as an anatomical site."""
    code = code_of(organ, "organ", organ)
    assert code is not None, "every organ has a code"
    return Concept(code.scheme, code.value, code.meaning)


def statements_of(entities: Entities) -> Iterator[Statement]:
    """All fields that are given, the organ's name apart; for the thyroid also what TI-RADS makes of them."""
    numbers = numeric_fields(entities.organ)
    for field in ordered_fields(type(entities))[1:]:
        value = getattr(entities, field)
        if value is not None:
            yield Statement(entities.organ, field, int(value) if field in numbers else str(value))
    if isinstance(entities, ThyroidEntities) and (level := entities.ti_rads_level()):
        yield Statement(entities.organ, "ti_rads", level)


def _lesion_fields(organ: Organ) -> frozenset[str]:
    model = BY_ORGAN[organ]
    return frozenset((*model.descriptors(), *model.QUALIFIERS, "ti_rads"))


def _slug(words: str) -> str:
    return "-".join(re.findall(r"[\w]+", words.replace("_", "-")))
