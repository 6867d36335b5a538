"""The O-RADS ultrasound category that the published table gives (v2022, Strachowski et al. 2023)."""

from __future__ import annotations

from typing import Any

import pytest

from sonoloop.platform.lexicon import OvaryEntities

SIMPLE: dict[str, Any] = {
    "organ": "ovary",
    "endometrium": "uniform",
    "myometrium": "homogeneous",
    "ascites": "absent",
    "peritoneal_nodules": "absent",
    "lesion": "present",
    "lesion_kind": "unilocular cyst",
    "contour": "smooth",
    "fluid": "anechoic",
    "acoustic_shadowing": "absent",
    "papillary_projections": "0",
    "color_score": "1",
    "o_rads": "not assessed",
}


def adnexa(**changes: Any) -> OvaryEntities:
    return OvaryEntities.model_validate({**SIMPLE, **changes})


@pytest.mark.parametrize(
    ("changes", "category"),
    [
        ({"size_mm": 60}, "2"),
        ({"size_mm": 25, "fluid": "ground glass"}, "2"),
        ({"size_mm": 100}, "3"),
        ({"contour": "irregular"}, "3"),
        ({"lesion_kind": "bilocular cyst", "size_mm": 99}, "2"),
        ({"lesion_kind": "bilocular cyst", "contour": "irregular"}, "4"),
        ({"lesion_kind": "multilocular cyst", "size_mm": 99, "color_score": "3"}, "3"),
        ({"lesion_kind": "multilocular cyst", "size_mm": 120}, "4"),
        ({"lesion_kind": "multilocular cyst", "color_score": "4"}, "4"),
        ({"lesion_kind": "multilocular cyst", "contour": "irregular"}, "4"),
        ({"lesion_kind": "unilocular cyst with solid component"}, "4"),
        ({"lesion_kind": "unilocular cyst with solid component", "papillary_projections": "3"}, "4"),
        ({"lesion_kind": "unilocular cyst with solid component", "papillary_projections": "4 or more"}, "5"),
        ({"lesion_kind": "bilocular cyst with solid component", "color_score": "2"}, "4"),
        ({"lesion_kind": "multilocular cyst with solid component", "color_score": "3"}, "5"),
        ({"lesion_kind": "solid lesion", "color_score": "1"}, "3"),
        ({"lesion_kind": "solid lesion", "color_score": "2"}, "4"),
        ({"lesion_kind": "solid lesion", "color_score": "2", "acoustic_shadowing": "present"}, "3"),
        ({"lesion_kind": "solid lesion", "color_score": "4", "acoustic_shadowing": "present"}, "5"),
        ({"lesion_kind": "solid lesion", "contour": "irregular"}, "5"),
        ({"lesion_kind": "typical dermoid cyst", "size_mm": 40}, "2"),
        ({"lesion_kind": "typical endometrioma", "size_mm": 110}, "3"),
        ({"lesion_kind": "typical hydrosalpinx"}, "2"),
        ({"contour": "irregular", "ascites": "present"}, "5"),
        ({"contour": "irregular", "peritoneal_nodules": "present", "ascites": "not assessed"}, "5"),
    ],
)
def test_the_category_follows_the_published_table(changes: dict[str, Any], category: str) -> None:
    assert adnexa(**changes).expected_o_rads() == category


@pytest.mark.parametrize(
    "changes",
    [
        {},  # no size
        {"size_mm": 25},  # a follicle before the menopause, a cyst after it
        {"size_mm": 60, "ascites": "present"},  # another cause of the ascites has to be sought
        {"size_mm": 60, "ascites": "not assessed"},
        {"size_mm": 60, "contour": "not assessed"},
        {"lesion_kind": "not assessed", "size_mm": 60},
        {"lesion_kind": "typical hemorrhagic cyst", "size_mm": 40},  # late after the menopause it is none
        {"lesion_kind": "multilocular cyst", "size_mm": 60, "color_score": "not assessed"},
        {"lesion_kind": "solid lesion", "color_score": "not assessed"},
        {"lesion_kind": "solid lesion", "color_score": "3", "acoustic_shadowing": "not assessed"},
        {"lesion_kind": "bilocular cyst with solid component", "color_score": "not assessed"},
        {"lesion_kind": "unilocular cyst with solid component", "papillary_projections": "not assessed"},
    ],
)
def test_what_the_table_does_not_settle_has_no_category(changes: dict[str, Any]) -> None:
    assert adnexa(**changes).expected_o_rads() is None


def test_without_a_lesion_there_is_nothing_to_categorise() -> None:
    nothing = {name: SIMPLE[name] for name in list(SIMPLE)[:5]}
    assert OvaryEntities.model_validate({**nothing, "lesion": "absent"}).expected_o_rads() is None
