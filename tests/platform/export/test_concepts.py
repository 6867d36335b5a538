"""Every word of the lexicon as a coded concept."""

from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts as pydicom_concepts
from tests.platform.export.made import every_entities, result

from sonoloop.platform.export.concepts import (
    LOCAL_SCHEME,
    Concept,
    Statement,
    organ_concept,
    statements_of,
)
from sonoloop.platform.lexicon import ORGANS, Organ, ThyroidEntities


def _concepts(organ: Organ) -> dict[tuple[str, str], set[Concept]]:
    found: dict[tuple[str, str], set[Concept]] = {}
    for entities in every_entities(organ):
        for statement in statements_of(entities):
            found.setdefault(("name", statement.field), set()).add(statement.name)
            if isinstance(statement.value, str):
                found.setdefault((statement.field, statement.value), set()).add(statement.concept)
    return found


@pytest.mark.parametrize("organ", ORGANS)
def test_each_word_has_one_concept_of_its_own_that_dicom_can_hold(organ: Organ) -> None:
    found = _concepts(organ)
    assert all(len(concepts) == 1 for concepts in found.values())
    named = {concept for (kind, _), (concept,) in found.items() if kind == "name"}
    assert len(named) == sum(kind == "name" for kind, _ in found)
    for (concept,) in found.values():
        assert 1 <= len(concept.meaning) <= 64
        assert concept.value.isascii()
        assert " " not in concept.value


@pytest.mark.parametrize("organ", ORGANS)
def test_standard_codes_are_those_of_the_dictionary_that_pydicom_takes_from_the_standard(
    organ: Organ,
) -> None:
    for (concept,) in [*_concepts(organ).values(), ({organ_concept(organ)})]:
        if concept.scheme != LOCAL_SCHEME:
            known = {code for codes in pydicom_concepts[concept.scheme].values() for code in codes}
            assert concept.value in known, concept


def test_values_that_are_written_alike_in_two_fields_are_two_concepts() -> None:
    three = {Statement("breast", "bi_rads", "3").concept, Statement("ovary", "color_score", "3").concept}
    assert len(three) == 2


def test_the_thyroid_s_level_is_stated_though_nobody_writes_it() -> None:
    entities = ThyroidEntities(
        organ="thyroid",
        lesion="present",
        composition="solid or almost completely solid",
        echogenicity="hypoechoic",
        shape="wider-than-tall",
        margin="smooth",
        echogenic_foci="none or large comet-tail artifacts",
    )
    assert Statement("thyroid", "ti_rads", "TR4") in list(statements_of(entities))


def test_what_is_said_about_the_organ_is_not_said_about_the_lesion() -> None:
    entities = result({"organ": "liver", "parenchyma": "coarse", "lesion": "absent"}).entities
    assert entities is not None
    assert [(s.field, s.is_about_lesion) for s in statements_of(entities)] == [
        ("parenchyma", False),
        ("lesion", False),
    ]
