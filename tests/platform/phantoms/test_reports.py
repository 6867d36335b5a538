"""The reports say what the entities say, in the agreed length."""

from __future__ import annotations

import pytest

from sonoloop.platform.lexicon import Organ, ThyroidEntities
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS


@pytest.mark.parametrize("organ", PHANTOM_ORGANS)
def test_every_value_is_named_in_the_lexicons_words_and_the_sections_have_their_length(organ: Organ) -> None:
    for index in range(250):
        case = draw_case(4, index, organ, "A")
        text = f"{case.findings} {case.impression}".lower()
        for name, value in case.entities.flat().items():
            if name not in ("organ", "lesion"):
                assert value.lower() in text, (index, name, value)
        assert 25 <= len(case.findings.split()) <= 60, case.findings
        assert 8 <= len(case.impression.split()) <= 20, case.impression


def test_the_impression_carries_the_category_of_breast_and_the_level_of_thyroid() -> None:
    for index in range(120):
        breast, thyroid = draw_case(5, index, "breast", "B"), draw_case(5, index, "thyroid", "B")
        assert isinstance(thyroid.entities, ThyroidEntities)
        if breast.entities.lesion == "present":
            assert f"BI-RADS category {breast.entities.flat()['bi_rads']}" in breast.impression
        if thyroid.entities.lesion == "present":
            assert f"TI-RADS level {thyroid.entities.ti_rads_level()}" in thyroid.impression


def test_several_phrasings_are_in_use() -> None:
    openings = {draw_case(6, index, "breast", "A").findings.split()[0:2][1] for index in range(60)}
    assert len(openings) >= 3
