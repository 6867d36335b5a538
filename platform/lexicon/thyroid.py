"""Thyroid ultrasound.

Source: ACR TI-RADS, Tessler et al., J Am Coll Radiol 2017;14:587-595, doi 10.1016/j.jacr.2017.01.046.
Points and level are computed from the features, never written.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from sonoloop.platform.lexicon.base import NOT_ASSESSED, Entities


class ThyroidEntities(Entities):
    """ACR TI-RADS features; points and level are computed, never written."""

    organ: Literal["thyroid"]
    composition: (
        Literal[
            "cystic or almost completely cystic",
            "spongiform",
            "mixed cystic and solid",
            "solid or almost completely solid",
            "not assessed",
        ]
        | None
    ) = None
    echogenicity: (
        Literal["anechoic", "hyperechoic or isoechoic", "hypoechoic", "very hypoechoic", "not assessed"]
        | None
    ) = None
    shape: Literal["wider-than-tall", "taller-than-wide", "not assessed"] | None = None
    margin: (
        Literal[
            "smooth", "ill-defined", "lobulated or irregular", "extra-thyroidal extension", "not assessed"
        ]
        | None
    ) = None
    echogenic_foci: (
        Literal[
            "none or large comet-tail artifacts",
            "macrocalcifications",
            "peripheral (rim) calcifications",
            "punctate echogenic foci",
            "not assessed",
        ]
        | None
    ) = None
    lobe: Literal["right lobe", "left lobe", "isthmus"] | None = None
    third: Literal["upper", "middle", "lower"] | None = None

    QUALIFIERS: ClassVar[tuple[str, ...]] = ("lobe", "third", "size_mm")
    POINTS: ClassVar[dict[str, dict[str, int]]] = {
        "composition": {"mixed cystic and solid": 1, "solid or almost completely solid": 2},
        "echogenicity": {"hyperechoic or isoechoic": 1, "hypoechoic": 2, "very hypoechoic": 3},
        "shape": {"taller-than-wide": 3},
        "margin": {"lobulated or irregular": 2, "extra-thyroidal extension": 3},
        "echogenic_foci": {
            "macrocalcifications": 1,
            "peripheral (rim) calcifications": 2,
            "punctate echogenic foci": 3,
        },
    }

    def ti_rads_points(self) -> int | None:
        """ACR TI-RADS points, or ``None`` where no lesion or a feature was not assessed.

        Source: Tessler et al. 2017, figure 1. A spongiform nodule scores no further points.
        """
        values = {name: getattr(self, name) for name in self.POINTS}
        if self.lesion != "present" or NOT_ASSESSED in values.values():
            return None
        if values["composition"] == "spongiform":
            return 0
        return sum(self.POINTS[name].get(value, 0) for name, value in values.items())

    def ti_rads_level(self) -> str | None:
        """``TR1`` to ``TR5`` from the points. Source: Tessler et al. 2017, figure 1."""
        points = self.ti_rads_points()
        if points is None:
            return None
        return "TR5" if points >= 7 else "TR4" if points >= 4 else {3: "TR3", 2: "TR2"}.get(points, "TR1")
