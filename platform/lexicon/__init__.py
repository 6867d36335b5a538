"""The words a draft may use: one pydantic model of entities per organ, and lesion boxes.

A case describes one dominant lesion. Organ-level fields (liver parenchyma, renal collecting system) are
always given; lesion descriptors are given exactly when ``lesion`` is ``present``; qualifiers (side, place,
size) may then be given too. "Nothing found" (``lesion: absent``) and "could not look" (``not assessed``) are
different values.

Each organ's module cites the sources of its vocabularies. Standard codes of the words are in `codes`.
"""

from sonoloop.platform.lexicon.base import (
    MAX_SIZE_MM,
    NOT_ASSESSED,
    ORGANS,
    Entities,
    LesionStatus,
    Organ,
)
from sonoloop.platform.lexicon.boxes import BOX_GRID, MAX_BOXES, LesionBox
from sonoloop.platform.lexicon.breast import BreastEntities
from sonoloop.platform.lexicon.heart import HeartEntities
from sonoloop.platform.lexicon.kidney import KidneyEntities
from sonoloop.platform.lexicon.liver import LiverEntities
from sonoloop.platform.lexicon.ovary import OvaryEntities
from sonoloop.platform.lexicon.thyroid import ThyroidEntities
from sonoloop.platform.lexicon.vessel import VesselEntities
from sonoloop.platform.lexicon.vocabulary import (
    BY_ORGAN,
    choice_fields,
    field_values,
    fields,
    number_range,
    numeric_fields,
    ordered_fields,
    qualifiers,
)
from sonoloop.platform.lexicon.writing import (
    entities_json,
    generated_text,
    generation_schema,
    longest_text,
    parse_entities,
    parse_generated,
)

__all__ = [
    "BOX_GRID",
    "BY_ORGAN",
    "MAX_BOXES",
    "MAX_SIZE_MM",
    "NOT_ASSESSED",
    "ORGANS",
    "BreastEntities",
    "Entities",
    "HeartEntities",
    "KidneyEntities",
    "LesionBox",
    "LesionStatus",
    "LiverEntities",
    "Organ",
    "OvaryEntities",
    "ThyroidEntities",
    "VesselEntities",
    "choice_fields",
    "entities_json",
    "field_values",
    "fields",
    "generated_text",
    "generation_schema",
    "longest_text",
    "number_range",
    "numeric_fields",
    "ordered_fields",
    "parse_entities",
    "parse_generated",
    "qualifiers",
]
