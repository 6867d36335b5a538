"""Liver ultrasound: descriptors common to focal lesions and to the background; no scoring system is implied.

Segments: Couinaud, Le foie: etudes anatomiques et chirurgicales, Masson 1957; segment IV with its usual
subdivision into IVa (superior) and IVb (inferior), and whole where the subdivision was not made.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from sonoloop.platform.lexicon.base import Entities


class LiverEntities(Entities):
    """Liver background and one focal lesion."""

    organ: Literal["liver"]
    parenchyma: Literal["normal", "increased echogenicity", "coarse", "not assessed"]
    echogenicity: Literal["anechoic", "hypoechoic", "isoechoic", "hyperechoic", "not assessed"] | None = None
    margin: Literal["well-defined", "ill-defined", "not assessed"] | None = None
    posterior_features: Literal["none", "enhancement", "shadowing", "not assessed"] | None = None
    segment: Literal["I", "II", "III", "IV", "IVa", "IVb", "V", "VI", "VII", "VIII"] | None = None

    QUALIFIERS: ClassVar[tuple[str, ...]] = ("segment", "size_mm")
