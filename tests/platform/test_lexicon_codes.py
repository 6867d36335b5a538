"""Codes of the lexicon's words against DICOM's tables, as pydicom ships them."""

from __future__ import annotations

import pytest
from pydicom.sr.codedict import codes

from sonoloop.platform.lexicon import ORGANS, field_values
from sonoloop.platform.lexicon.codes import CODES, Code, code_of


def test_codes_are_given_only_to_values_of_the_lexicon() -> None:
    for organ, field, value in CODES:
        assert value in field_values(organ, field), (organ, field, value)


@pytest.mark.parametrize("code", sorted(set(CODES.values())))
def test_every_code_is_in_the_context_group_that_it_cites(code: Code) -> None:
    group = getattr(codes, f"cid{code.context_group}")
    concepts = {
        (concept.scheme_designator, concept.value, concept.meaning)
        for concept in (getattr(group, keyword) for keyword in group.dir())
    }
    assert (code.scheme, code.value, code.meaning) in concepts


def test_two_values_of_a_field_never_share_a_code() -> None:
    places = [(organ, field, code.value) for (organ, field, _), code in CODES.items()]
    assert len(set(places)) == len(places)


def test_a_value_without_a_certain_code_has_none() -> None:
    assert code_of("liver", "segment", "IVa") is None
    assert code_of("breast", "orientation", "parallel") == Code("DCM", "111355", "Parallel", 6152)
    assert all(code_of(organ, "organ", organ) for organ in ORGANS)
