from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from label_studio_sdk.label_interface import LabelInterface

from sonoloop.platform.labelstudio.page import build_page, choice_controls, control_name, page_hash
from sonoloop.platform.lexicon import BY_ORGAN, ORGANS, field_values, fields


def _conditions_around(root: ET.Element, control: str) -> dict[str, str]:
    """``whenTagName`` to ``whenChoiceValue`` of every view around a control."""
    parents = {child: parent for parent in root.iter() for child in parent}
    node = next(element for element in root.iter("Choices") if element.get("name") == control)
    found = {}
    while node in parents:
        node = parents[node]
        if node.get("visibleWhen"):
            found[node.get("whenTagName", "")] = node.get("whenChoiceValue", "")
    return found


def test_the_page_is_a_valid_labeling_configuration_with_every_choice_of_the_lexicon() -> None:
    interface = LabelInterface(build_page())
    interface.validate()
    for name, values in choice_controls().items():
        assert tuple(interface.get_control(name).labels) == values
    for organ in ORGANS:
        for field in fields(organ):
            assert set(choice_controls()[control_name(organ, field)]) >= set(field_values(organ, field))


@pytest.mark.parametrize("organ", ORGANS)
def test_a_field_shows_only_with_its_organ_and_a_descriptor_only_with_a_lesion(organ) -> None:
    root = ET.fromstring(build_page())
    for field in fields(organ):
        conditions = _conditions_around(root, control_name(organ, field))
        expected = {} if field in ("organ", "lesion") else {"organ": organ}
        if field in BY_ORGAN[organ].descriptors():
            expected["lesion"] = "present"
        assert conditions == expected, field


def test_control_names_do_not_change_since_annotations_already_made_carry_them() -> None:
    assert list(choice_controls())[:4] == ["organ", "lesion", "breast_shape", "breast_orientation"]
    interface = LabelInterface(build_page())
    assert {"box", "findings", "impression", "thyroid_echogenic_foci", "kidney_collecting_system"} <= {
        control.name for control in interface.controls
    }


def test_the_page_is_the_same_every_time_and_its_hash_names_it() -> None:
    assert build_page() == build_page()
    assert page_hash(build_page()) != page_hash(build_page() + " ")
