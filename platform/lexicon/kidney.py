"""Kidney ultrasound: descriptors common to focal lesions, and the collecting system; no score is implied."""

from __future__ import annotations

from typing import ClassVar, Literal

from sonoloop.platform.lexicon.base import Entities, Laterality


class KidneyEntities(Entities):
    """Renal collecting system and one focal lesion (a calculus is hyperechoic with shadowing)."""

    organ: Literal["kidney"]
    collecting_system: Literal["not dilated", "dilated", "not assessed"]
    echogenicity: Literal["anechoic", "hypoechoic", "isoechoic", "hyperechoic", "not assessed"] | None = None
    margin: Literal["well-defined", "ill-defined", "not assessed"] | None = None
    posterior_features: Literal["none", "enhancement", "shadowing", "not assessed"] | None = None
    laterality: Laterality | None = None
    pole: Literal["upper pole", "interpolar", "lower pole"] | None = None

    QUALIFIERS: ClassVar[tuple[str, ...]] = ("laterality", "pole", "size_mm")
