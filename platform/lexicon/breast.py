"""Breast ultrasound.

Source: ACR BI-RADS Atlas, 5th ed. (2013), Ultrasound: masses (shape, orientation, margin, echo pattern,
posterior features), calcifications, assessment categories, and the location of a finding (laterality,
quadrant, clock-face position, distance from the nipple). Category 1 means that no lesion is present.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from sonoloop.platform.lexicon.base import Entities, Laterality, whole_number

MAX_NIPPLE_DISTANCE_MM = 200

NippleDistanceMm = Annotated[int, Field(ge=1, le=MAX_NIPPLE_DISTANCE_MM), BeforeValidator(whole_number)]


class BreastEntities(Entities):
    """ACR BI-RADS ultrasound descriptors and assessment category."""

    organ: Literal["breast"]
    shape: Literal["oval", "round", "irregular", "not assessed"] | None = None
    orientation: Literal["parallel", "not parallel", "not assessed"] | None = None
    margin: (
        Literal["circumscribed", "indistinct", "angular", "microlobulated", "spiculated", "not assessed"]
        | None
    ) = None
    echo_pattern: (
        Literal[
            "anechoic",
            "hyperechoic",
            "complex cystic and solid",
            "hypoechoic",
            "isoechoic",
            "heterogeneous",
            "not assessed",
        ]
        | None
    ) = None
    posterior_features: (
        Literal["none", "enhancement", "shadowing", "combined pattern", "not assessed"] | None
    ) = None
    calcifications: (
        Literal["absent", "in a mass", "outside of a mass", "intraductal", "not assessed"] | None
    ) = None
    bi_rads: Literal["0", "2", "3", "4A", "4B", "4C", "5", "6", "not assessed"] | None = None
    laterality: Laterality | None = None
    quadrant: (
        Literal["upper outer", "upper inner", "lower outer", "lower inner", "central", "axillary tail"] | None
    ) = None
    clock_position: Literal["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] | None = Field(
        default=None, description="o'clock, facing the patient"
    )
    nipple_distance_mm: NippleDistanceMm | None = Field(
        default=None, description="from the nipple to the lesion, whole mm; behind it: central"
    )

    QUALIFIERS: ClassVar[tuple[str, ...]] = (
        "laterality",
        "quadrant",
        "clock_position",
        "nipple_distance_mm",
        "size_mm",
    )
