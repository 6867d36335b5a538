"""What the header says about an examination, in the lexicon's words."""

from __future__ import annotations

from dataclasses import dataclass

import pydicom

from sonoloop.platform.archive.sense.organs import organ_from_text
from sonoloop.platform.lexicon import Organ


@dataclass(frozen=True)
class UltrasoundFacts:
    """Facts without identifiers; ``None`` or empty where nothing is known."""

    organ_hint: Organ | None = None
    scanner: str | None = None


def facts_of(dataset: pydicom.Dataset) -> UltrasoundFacts:
    """Read the facts from a header."""
    names = (
        str(dataset.get(key, "")) for key in ("BodyPartExamined", "StudyDescription", "SeriesDescription")
    )
    maker = " ".join(str(dataset.get(key, "")) for key in ("Manufacturer", "ManufacturerModelName")).strip()
    return UltrasoundFacts(organ_hint=organ_from_text(" ".join(names)), scanner=maker or None)
