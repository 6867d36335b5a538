"""Gynaecological ultrasound: ovaries and adnexa, with the background of the uterus.

Sources:

- lesion, contour, fluid, shadowing, papillary projections, colour score, ascites, peritoneal nodules: O-RADS
  US lexicon, Andreotti et al., J Am Coll Radiol 2018;15:1415-1429.
- category: O-RADS US v2022, Strachowski et al., Radiology 2023;308:e230685. Category 1 means that no lesion
  is present; a follicle and a corpus luteum are physiological and no lesion.
- endometrium (uniform, non-uniform): IETA, Leone et al., Ultrasound Obstet Gynecol 2010;35:103-112.
- myometrium: MUSA, Van den Bosch et al., Ultrasound Obstet Gynecol 2015;46:284-298.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from sonoloop.platform.lexicon.base import NOT_ASSESSED, Entities, Finding, Laterality


class OvaryEntities(Entities):
    """One adnexal lesion in O-RADS terms, and what surrounds it.

    ``contour`` is the inner wall of a cyst and the outer contour of a solid lesion. ``fluid`` is ``none`` for
    a solid lesion. ``o_rads`` is the reader's category; `expected_o_rads` says what the table gives.
    """

    organ: Literal["ovary"]
    endometrium: Literal["uniform", "non-uniform", "not assessed"]
    myometrium: Literal["homogeneous", "heterogeneous", "not assessed"]
    ascites: Finding
    peritoneal_nodules: Finding
    lesion_kind: (
        Literal[
            "unilocular cyst",
            "bilocular cyst",
            "multilocular cyst",
            "unilocular cyst with solid component",
            "bilocular cyst with solid component",
            "multilocular cyst with solid component",
            "solid lesion",
            "typical hemorrhagic cyst",
            "typical dermoid cyst",
            "typical endometrioma",
            "typical paraovarian cyst",
            "typical peritoneal inclusion cyst",
            "typical hydrosalpinx",
            "not assessed",
        ]
        | None
    ) = None
    contour: Literal["smooth", "irregular", "not assessed"] | None = None
    fluid: (
        Literal[
            "none",
            "anechoic",
            "low-level echoes",
            "ground glass",
            "reticular pattern",
            "retracting clot",
            "hyperechoic component with shadowing",
            "hyperechoic lines and dots",
            "floating echogenic spherical structures",
            "not assessed",
        ]
        | None
    ) = None
    acoustic_shadowing: Finding | None = None
    papillary_projections: Literal["0", "1", "2", "3", "4 or more", "not assessed"] | None = None
    color_score: Literal["1", "2", "3", "4", "not assessed"] | None = None
    o_rads: Literal["0", "2", "3", "4", "5", "not assessed"] | None = None
    laterality: Laterality | None = None
    site: Literal["ovarian", "extraovarian"] | None = None

    QUALIFIERS: ClassVar[tuple[str, ...]] = ("laterality", "site", "size_mm")

    def expected_o_rads(self) -> str | None:
        """The category of the published table, or ``None`` where these fields alone do not settle it.

        Not settled: a feature or size that the row asks for is missing; a simple cyst up to 3 cm and a
        haemorrhagic cyst (they depend on the menopause); ascites beside a lesion of category 2.

        Source: Strachowski et al. 2023, table of O-RADS US v2022.
        """
        if self.lesion != "present" or self.lesion_kind in (None, NOT_ASSESSED):
            return None
        category = _category(self, str(self.lesion_kind))
        if "present" not in (self.ascites, self.peritoneal_nodules):
            return category if NOT_ASSESSED not in (self.ascites, self.peritoneal_nodules) else None
        return "5" if category in ("3", "4", "5") else None


LARGE_MM = 100
"""The table's 10 cm."""
SIMPLE_MM = 30
"""Up to 3 cm, a simple cyst before the menopause is a follicle."""
_EXTRAOVARIAN = ("typical paraovarian cyst", "typical peritoneal inclusion cyst", "typical hydrosalpinx")


def _category(seen: OvaryEntities, kind: str) -> str | None:
    if kind.startswith("typical"):
        return _typical(seen, kind)
    if kind == "solid lesion":
        return _solid(seen)
    return _with_solid(seen, kind) if kind.endswith("solid component") else _cyst(seen, kind)


def _by_size(seen: OvaryEntities, below: str, from_large: str) -> str | None:
    if seen.size_mm is None:
        return None
    return below if seen.size_mm < LARGE_MM else from_large


def _typical(seen: OvaryEntities, kind: str) -> str | None:
    if kind in _EXTRAOVARIAN:
        return "2"
    return None if kind == "typical hemorrhagic cyst" else _by_size(seen, "2", "3")


def _cyst(seen: OvaryEntities, kind: str) -> str | None:
    """Cysts without a solid component."""
    if seen.contour == "irregular":
        return "3" if kind == "unilocular cyst" else "4"
    if seen.contour != "smooth":
        return None
    if kind == "multilocular cyst":
        if seen.color_score in (None, NOT_ASSESSED):
            return None
        return "4" if seen.color_score == "4" else _by_size(seen, "3", "4")
    maybe_simple = kind == "unilocular cyst" and seen.fluid in ("anechoic", NOT_ASSESSED)
    if maybe_simple and seen.size_mm is not None and seen.size_mm <= SIMPLE_MM:
        return None
    return _by_size(seen, "2", "3")


def _with_solid(seen: OvaryEntities, kind: str) -> str | None:
    """Cysts with a solid component."""
    if kind.startswith("unilocular"):
        return {"4 or more": "5", NOT_ASSESSED: None}.get(str(seen.papillary_projections), "4")
    return {"1": "4", "2": "4", "3": "5", "4": "5"}.get(str(seen.color_score))


def _solid(seen: OvaryEntities) -> str | None:
    if seen.contour == "irregular":
        return "5"
    if seen.contour != "smooth":
        return None
    if seen.color_score in ("1", "4"):
        return "3" if seen.color_score == "1" else "5"
    shadowing = {"present": "3", "absent": "4"}.get(str(seen.acoustic_shadowing))
    return shadowing if seen.color_score in ("2", "3") else None
