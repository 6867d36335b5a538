from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from label_studio_sdk.label_interface import LabelInterface

from sonoloop.platform.labelstudio.page import (
    build_page,
    choice_controls,
    control_name,
    number_controls,
    page_hash,
)
from sonoloop.platform.lexicon import (
    BY_ORGAN,
    ORGANS,
    choice_fields,
    field_values,
    ordered_fields,
    qualifiers,
)


def _conditions_around(root: ET.Element, control: str) -> dict[str, str]:
    """``whenTagName`` to ``whenChoiceValue`` of every view around a control."""
    parents = {child: parent for parent in root.iter() for child in parent}
    node = next(e for e in root.iter() if e.tag in ("Choices", "Number") and e.get("name") == control)
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
    for name in number_controls():
        assert interface.get_control(name).tag == "Number"
    for organ in ORGANS:
        for field in choice_fields(organ):
            assert set(choice_controls()[control_name(organ, field)]) >= set(field_values(organ, field))


@pytest.mark.parametrize("organ", ORGANS)
def test_a_field_shows_only_with_its_organ_and_a_descriptor_only_with_a_lesion(organ) -> None:
    root = ET.fromstring(build_page())
    for field in ordered_fields(BY_ORGAN[organ]):
        conditions = _conditions_around(root, control_name(organ, field))
        expected = {} if field in ("organ", "lesion") else {"organ": organ}
        if field in (*BY_ORGAN[organ].descriptors(), *qualifiers(organ)):
            expected["lesion"] = "present"
        assert conditions == expected, field


def test_control_names_do_not_change_since_annotations_already_made_carry_them() -> None:
    assert list(choice_controls())[:4] == ["organ", "lesion", "breast_shape", "breast_orientation"]
    interface = LabelInterface(build_page())
    assert {"box", "findings", "impression", "thyroid_echogenic_foci", "kidney_collecting_system"} <= {
        control.name for control in interface.controls
    }


def test_no_two_controls_share_a_name_and_no_two_choices_a_key() -> None:
    root = ET.fromstring(build_page())
    names = [e.get("name") for e in root.iter() if e.tag in ("Choices", "Number", "TextArea")]
    assert len(set(names)) == len(names)
    keys = {e.get("value"): e.get("hotkey") for e in root.iter() if e.get("hotkey")}
    assert len(set(keys.values())) == len(keys) == len(ORGANS) + 4  # three statuses, the box
    assert [keys[value] for value in ("breast", "kidney", "present", "lesion")] == ["1", "4", "5", "b"]


def test_an_emptied_number_does_not_block_the_submission() -> None:
    for number in ET.fromstring(build_page()).iter("Number"):
        assert number.get("min") == "0"
        assert number.get("max") == str(number_controls()[str(number.get("name"))][1])


def test_the_page_is_the_same_every_time_and_its_hash_names_it() -> None:
    assert build_page() == build_page()
    assert page_hash(build_page()) != page_hash(build_page() + " ")
