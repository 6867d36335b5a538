"""Carotid ultrasound; the lesion is a plaque.

Sources:

- stenosis of the internal carotid artery: SRU consensus, Grant et al., Radiology 2003;229:340-346.
- plaque as the lesion, and intima-media thickness: Mannheim consensus, Touboul et al., Cerebrovasc Dis
  2012;34:290-296. It says how to measure and fixes no limit of the normal; the limit is the reader's.
- echogenicity: Gray-Weale et al., J Cardiovasc Surg 1988;29:676-681, as modified by Geroulakos et al., Br J
  Surg 1993;80:1274-1277: types 1 to 5 in the order given here.
- surface: de Bray et al., Cerebrovasc Dis 1997;7:289-296.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from sonoloop.platform.lexicon.base import Entities, Laterality


class VesselEntities(Entities):
    """One carotid axis and its dominant plaque."""

    organ: Literal["vessel"]
    intima_media: Literal["normal", "thickened", "not assessed"]
    stenosis: Literal[
        "normal",
        "less than 50%",
        "50-69%",
        "70% or more",
        "near occlusion",
        "total occlusion",
        "not assessed",
    ]
    echogenicity: (
        Literal[
            "uniformly echolucent",
            "predominantly echolucent",
            "predominantly echogenic",
            "uniformly echogenic",
            "hidden by calcification",
            "not assessed",
        ]
        | None
    ) = None
    surface: Literal["smooth", "irregular", "ulcerated", "not assessed"] | None = None
    laterality: Laterality | None = None
    segment: Literal["common carotid", "carotid bulb", "internal carotid", "external carotid"] | None = None

    QUALIFIERS: ClassVar[tuple[str, ...]] = ("laterality", "segment", "size_mm")
