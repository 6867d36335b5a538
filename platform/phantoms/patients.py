"""Invented people for the headers and banners; nobody of these names, numbers and dates is meant."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from sonoloop.platform.lexicon import Organ

_FAMILY = (
    "Abelard Brightwater Caskill Dunmore Elfstrand Farrowby Glasswell Hollins Ironsby Jessamy Kettering"
    " Larkmoor Merriweather Northcote Oakhurst Pemberly Quillfeather Rosthorn Silverley Thistlewood"
    " Underhay Vancroft Whitlock Yarrow"
)
_GIVEN = {
    "F": "Ada Beatrix Clara Dorothea Edith Flora Greta Henrietta Ida Judith Lena Mabel Nora Ottilie",
    "M": "Albert Basil Conrad Dietmar Edgar Felix Gregor Hugo Ivor Jasper Leopold Magnus Oscar",
}


@dataclass(frozen=True)
class Patient:
    """One invented person; ``name`` is in DICOM's form, family^given."""

    name: str = field(repr=False)
    patient_id: str = field(repr=False)
    birth_date: date = field(repr=False)
    sex: str


def draw_patient(seed: int, number: int, organ: Organ) -> Patient:
    """The archive's person ``number``; the same arguments give the same person.

    Args:
        seed: The archive's seed.
        number: From 0.
        organ: Of the person's first study; breast studies are of women here.
    """
    rng = np.random.default_rng([seed, number, 11])
    sex = "F" if organ == "breast" or rng.random() < 0.55 else "M"
    family, given = rng.choice(_FAMILY.split()), rng.choice(_GIVEN[sex].split())
    return Patient(
        name=f"{family}^{given}",
        patient_id=f"PH{int(rng.integers(10**6)):06d}{number % 100:02d}",
        birth_date=date(1935, 1, 1) + timedelta(days=int(rng.integers(66 * 365))),
        sex=sex,
    )


def deterministic_uid(*parts: str | int) -> str:
    """A UID under 2.25 made from content. Source: DICOM PS3.5 B.2, UUID-derived identifiers."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"
