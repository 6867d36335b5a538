"""Questions about single fields of the entities."""

from __future__ import annotations

import pytest

from sonoloop.model.prompts import LANGUAGES, PROMPTS, Language
from sonoloop.model.prompts.questions import entity_answer, entity_question
from sonoloop.platform.lexicon import BY_ORGAN, ORGANS, Organ, field_values, numeric_fields, ordered_fields

EVERY = [(organ, field) for organ in ORGANS for field in ordered_fields(BY_ORGAN[organ])]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_field_of_every_organ_has_a_question_that_holds_each_of_its_answers(language: Language) -> None:
    for organ, field in EVERY:
        question = entity_question(organ, field, language)
        assert "_" not in question
        PROMPTS["vqa", language].request(organ, question)  # refuses what is no question
        if field in numeric_fields(organ):
            assert entity_answer(organ, field, "12", language) == "12"
        else:
            for value in field_values(organ, field):
                assert entity_answer(organ, field, value, language) in question, (organ, field, value)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("organ", ORGANS)
def test_no_two_fields_of_an_organ_are_asked_for_alike(organ: Organ, language: Language) -> None:
    names = ordered_fields(BY_ORGAN[organ])
    assert len({entity_question(organ, name, language) for name in names}) == len(names)


def test_a_question_reads_as_a_person_would_ask() -> None:
    assert entity_question("liver", "margin") == (
        "What is the margin of the lesion: well-defined, ill-defined or not assessed?"
    )
    assert entity_question("heart", "lv_size").startswith("What is the left ventricular size of the heart:")
    assert entity_question("breast", "nipple_distance_mm") == (
        "What is the nipple distance of the lesion in whole mm?"
    )
    assert entity_question("liver", "size_mm", "zh") == "最大径是多少毫米（整数）？"


def test_a_field_that_an_organ_lacks_is_refused() -> None:
    with pytest.raises(KeyError):
        entity_question("liver", "o_rads")
