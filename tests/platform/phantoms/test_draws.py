"""What is drawn: the lexicon's values in balance, correlations that make sense, fixed scoring."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from sonoloop.platform.lexicon import BreastEntities, KidneyEntities, Organ, field_values, fields
from sonoloop.platform.phantoms.archive import PhantomGroup
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS, bi_rads, draw_entities

NEVER_DRAWN = {"not assessed", "0", "6"}


def _draws(organ: Organ, num: int) -> list[dict[str, str]]:
    return [draw_entities(np.random.default_rng([1, i]), organ).flat() for i in range(num)]


@pytest.mark.parametrize("organ", PHANTOM_ORGANS)
def test_every_value_that_can_be_shown_is_drawn_often_enough_to_be_scored(organ: Organ) -> None:
    drawn = _draws(organ, 600)
    present = sum(values["lesion"] == "present" for values in drawn)
    assert 0.72 < present / 600 < 0.84
    for field in fields(organ)[1:]:
        counts = Counter(values[field] for values in drawn if field in values)
        assert set(counts) == set(field_values(organ, field)) - NEVER_DRAWN, field
        assert min(counts.values()) >= 0.05 * sum(counts.values()), (field, counts)


def test_a_cyst_of_the_breast_is_circumscribed_enhancing_and_benign() -> None:
    cysts = [v for v in _draws("breast", 400) if v.get("echo_pattern") == "anechoic"]
    assert cysts
    for values in cysts:
        assert values["margin"] == "circumscribed"
        assert values["posterior_features"] == "enhancement"
        assert values["bi_rads"] == "2"


def test_a_round_breast_mass_is_not_parallel_and_an_irregular_one_not_circumscribed() -> None:
    for values in _draws("breast", 400):
        assert values.get("shape") != "round" or values["orientation"] == "not parallel"
        assert values.get("shape") != "irregular" or values["margin"] != "circumscribed"


def test_bi_rads_is_a_function_of_the_descriptors_and_rises_with_suspicion() -> None:
    for index in range(300):
        entities = draw_entities(np.random.default_rng([2, index]), "breast")
        assert isinstance(entities, BreastEntities)
        if entities.lesion == "present":
            assert entities.bi_rads == bi_rads(entities.flat())
    worst = {
        "shape": "irregular",
        "orientation": "not parallel",
        "margin": "spiculated",
        "echo_pattern": "hypoechoic",
        "posterior_features": "shadowing",
        "calcifications": "in a mass",
    }
    assert bi_rads(worst) == "5"
    assert bi_rads({**worst, "shape": "oval", "margin": "circumscribed", "calcifications": "absent"}) == "4A"


def test_a_shadowing_hyperechoic_focus_of_the_kidney_is_always_well_defined() -> None:
    for index in range(300):
        entities = draw_entities(np.random.default_rng([3, index]), "kidney")
        assert isinstance(entities, KidneyEntities)
        if entities.echogenicity == "hyperechoic" and entities.posterior_features == "shadowing":
            assert entities.margin == "well-defined"


def test_an_organ_without_a_phantom_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="heart"):
        draw_entities(np.random.default_rng(0), "heart")
    with pytest.raises(ValidationError, match="no phantom"):
        PhantomGroup(organ="ovary", scanner="A", count=1)
