"""Which fields each organ has, in which order, and what each may say."""

from __future__ import annotations

from functools import cache
from typing import Any

from sonoloop.platform.lexicon.base import Entities, Organ
from sonoloop.platform.lexicon.breast import BreastEntities
from sonoloop.platform.lexicon.heart import HeartEntities
from sonoloop.platform.lexicon.kidney import KidneyEntities
from sonoloop.platform.lexicon.liver import LiverEntities
from sonoloop.platform.lexicon.ovary import OvaryEntities
from sonoloop.platform.lexicon.thyroid import ThyroidEntities
from sonoloop.platform.lexicon.vessel import VesselEntities

BY_ORGAN: dict[Organ, type[Entities]] = {
    "breast": BreastEntities,
    "thyroid": ThyroidEntities,
    "liver": LiverEntities,
    "kidney": KidneyEntities,
    "ovary": OvaryEntities,
    "heart": HeartEntities,
    "vessel": VesselEntities,
}


@cache
def _parts(organ: Organ, field: str) -> tuple[dict[str, Any], ...]:
    """The JSON schemas that one field may follow, ``null`` included."""
    schema = BY_ORGAN[organ].model_json_schema()["properties"][field]
    return tuple(schema.get("anyOf", [schema]))


def field_values(organ: Organ, field: str) -> tuple[str, ...]:
    """The admissible values of one field, in the order of the vocabulary.

    Raises:
        KeyError: the organ has no such field, or the field is a number (see `number_range`).
    """
    for part in _parts(organ, field):
        if "enum" in part:
            return tuple(part["enum"])
        if "const" in part:
            return (part["const"],)
    raise KeyError(field)


def number_range(organ: Organ, field: str) -> tuple[int, int]:
    """Smallest and largest value of a numeric field, both admissible; whole numbers lie between.

    Raises:
        KeyError: the organ has no such field, or the field is no number.
    """
    for part in _parts(organ, field):
        if part.get("type") == "integer":
            return int(part["minimum"]), int(part["maximum"])
    raise KeyError(field)


def fields(organ: Organ) -> tuple[str, ...]:
    """The fields that are always given once a lesion is present, in writing order: no qualifiers."""
    return _fields(BY_ORGAN[organ])


def qualifiers(organ: Organ) -> tuple[str, ...]:
    """The optional fields of a present lesion, in writing order; they follow all `fields`."""
    return BY_ORGAN[organ].QUALIFIERS


def numeric_fields(organ: Organ) -> tuple[str, ...]:
    """The qualifiers that are whole numbers."""
    return tuple(name for name in qualifiers(organ) if name.endswith("_mm"))


def choice_fields(organ: Organ) -> tuple[str, ...]:
    """Every field with a vocabulary, qualifiers included, in writing order."""
    numeric = numeric_fields(organ)
    return tuple(name for name in ordered_fields(BY_ORGAN[organ]) if name not in numeric)


def ordered_fields(model: type[Entities]) -> tuple[str, ...]:
    """``organ``, organ-level fields, ``lesion``, the lesion's descriptors, its qualifiers."""
    return (*_fields(model), *model.QUALIFIERS)


def _fields(model: type[Entities]) -> tuple[str, ...]:
    level = [n for n, f in model.model_fields.items() if f.is_required() and n not in ("organ", "lesion")]
    return ("organ", *level, "lesion", *model.descriptors())
