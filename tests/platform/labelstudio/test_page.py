from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from typing import get_args

import pytest
from label_studio_sdk.label_interface import LabelInterface

from sonoloop.platform.labelstudio.config import LabelStudioConfig, configured_page
from sonoloop.platform.labelstudio.page import (
    build_page,
    choice_controls,
    control_name,
    number_controls,
    page_hash,
)
from sonoloop.platform.labelstudio.page_keys import NO_KEY, SUBMIT_KEY, field_keys
from sonoloop.platform.labelstudio.page_words import (
    EVERYWHERE_ZH,
    LANGUAGES,
    TITLES_ZH,
    WORDS_ZH,
    title,
    word,
)
from sonoloop.platform.lexicon import (
    BY_ORGAN,
    ORGANS,
    choice_fields,
    field_values,
    ordered_fields,
    qualifiers,
)
from sonoloop.platform.lexicon.words_zh import ORGAN_WORDS_ZH
from sonoloop.platform.records import Escape

PAGES = (None, *ORGANS)


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


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("organ", PAGES)
def test_in_every_language_a_page_is_valid_and_stores_the_words_of_the_lexicon(organ, language) -> None:
    interface = LabelInterface(build_page(organ, language))
    interface.validate()
    for name, values in choice_controls(organ).items():
        assert tuple(interface.get_control(name).labels) == values
    for name in number_controls(organ):
        assert interface.get_control(name).tag == "Number"
    assert interface.get_control("box").labels == ["lesion"]
    assert interface.get_control("escape").labels == list(get_args(Escape))


def test_the_page_of_all_organs_has_every_choice_of_the_lexicon_and_a_page_of_one_its_own() -> None:
    for organ in ORGANS:
        for field in choice_fields(organ):
            everything, own = choice_controls(), choice_controls(organ)
            assert set(everything[control_name(organ, field)]) >= set(field_values(organ, field))
            assert own[control_name(organ, field)] == field_values(organ, field)
        assert {name.split("_")[0] for name in (*choice_controls(organ), *number_controls(organ))} == {
            organ,
            "organ",
            "lesion",
            "escape",
        }


@pytest.mark.parametrize("organ", ORGANS)
def test_a_field_shows_only_with_its_organ_and_a_descriptor_only_with_a_lesion(organ) -> None:
    for page, shared in ((build_page(), {"organ": organ}), (build_page(organ), {})):
        root = ET.fromstring(page)
        for field in ordered_fields(BY_ORGAN[organ]):
            expected = {} if field in ("organ", "lesion") else dict(shared)
            if field in (*BY_ORGAN[organ].descriptors(), *qualifiers(organ)):
                expected["lesion"] = "present"
            assert _conditions_around(root, control_name(organ, field)) == expected, field


def test_a_page_of_one_organ_has_it_chosen_before_anyone_looks() -> None:
    (choice,) = ET.fromstring(build_page("liver", "zh")).findall(".//Choices[@name='organ']/Choice")
    assert (choice.get("alias"), choice.get("selected")) == ("liver", "true")
    assert not ET.fromstring(build_page()).findall(".//*[@selected]")


def test_control_names_do_not_change_since_annotations_already_made_carry_them() -> None:
    assert list(choice_controls())[:4] == ["organ", "lesion", "breast_shape", "breast_orientation"]
    interface = LabelInterface(build_page())
    assert {"box", "findings", "impression", "thyroid_echogenic_foci", "kidney_collecting_system"} <= {
        control.name for control in interface.controls
    }


@pytest.mark.parametrize("organ", PAGES)
def test_every_control_has_a_name_and_every_choice_a_key_of_its_own(organ) -> None:
    root = ET.fromstring(build_page(organ))
    names = [e.get("name") for e in root.iter() if e.tag in ("Choices", "Number", "TextArea")]
    assert len(set(names)) == len(names)
    keyed = [e for e in root.iter() if e.tag in ("Choice", "Label", "Number")]
    assert all(e.get("hotkey") for e in keyed), "Label Studio would give it a letter that nobody sees"
    keys = Counter(e.get("hotkey") for e in keyed if e.get("hotkey") != NO_KEY)
    assert set(keys.values()) == {1}
    assert not keys.keys() & {"h", "r", "u", "v", "[", "]", "enter", SUBMIT_KEY}


def test_keys_of_organs_statuses_and_escapes_are_the_same_for_ever() -> None:
    root = ET.fromstring(build_page())
    keyed = [e for e in root.iter() if e.get("hotkey") not in (None, NO_KEY)]
    keys = {e.get("alias") or e.get("value"): e.get("hotkey") for e in keyed}
    assert keys == {
        **dict(zip(ORGANS, "1234890", strict=True)),
        **{"present": "5", "absent": "6", "not assessed": "7"},
        **{"cannot-judge": "j", "bad-image": "i", "patient-data-visible": "p"},
        "lesion": "b",
    }


def test_on_a_page_of_one_organ_a_field_has_keys_for_all_its_values_the_category_first() -> None:
    for organ in ORGANS:
        keys = field_keys(organ)
        assert keys
        assert all(len(given) == len(field_values(organ, field)) for field, given in keys.items())
    assert "bi_rads" in field_keys("breast")
    assert "o_rads" in field_keys("ovary")


@pytest.mark.parametrize("organ", PAGES)
def test_nothing_is_required_so_that_an_escape_can_always_be_submitted(organ) -> None:
    for element in ET.fromstring(build_page(organ)).iter():
        assert element.get("required") is None
    for number in ET.fromstring(build_page(organ)).iter("Number"):
        assert number.get("min") == "0", "an emptied number is 0 and would block the submission"
        assert number.get("max") == str(number_controls()[str(number.get("name"))][1])


def test_every_entity_has_a_place_for_its_mark() -> None:
    values = {e.get("value") for e in ET.fromstring(build_page()).iter("Header")}
    entities = {*choice_controls(), *number_controls()}
    assert {f"$marks.{name}" for name in entities} <= values


def test_not_assessed_does_not_look_like_absent() -> None:
    choices = ET.fromstring(build_page()).findall(".//Choice")
    styled = {e.get("value") for e in choices if e.get("style")}
    assert styled == {"not assessed"}
    assert all(e.get("style") for e in choices if e.get("value") == "not assessed")


def test_every_field_and_every_value_has_a_chinese_word_and_no_word_is_left_over() -> None:
    used_titles, used_words = {"findings", "impression", "escape"}, set[tuple[str, str]]()
    for organ in ORGANS:
        for field in ordered_fields(BY_ORGAN[organ]):
            assert title(organ, field, "zh")
            used_titles.add(f"{organ}_{field}" if f"{organ}_{field}" in TITLES_ZH else field)
        for field in choice_fields(organ):
            values = ORGANS if field == "organ" else field_values(organ, field)
            words = [word(organ, field, value, "zh") for value in values]
            assert len(set(words)) == len(words), field
            assert all(re.search(r"[\u4e00-\u9fff]|%", shown) for shown in words), words
            for value in values:
                places = (f"{organ}_{field}", field)
                place = next((p for p in places if value in WORDS_ZH.get(p, {})), "everywhere")
                used_words.add((place, value))
    assert used_titles == set(TITLES_ZH)
    kept = {(place, value) for place, words in WORDS_ZH.items() for value in words}
    assert used_words == kept | {("everywhere", value) for value in EVERYWHERE_ZH}


def test_the_page_names_organs_and_sections_as_the_prompts_do() -> None:
    assert WORDS_ZH["organ"] == ORGAN_WORDS_ZH
    assert (TITLES_ZH["findings"], TITLES_ZH["impression"]) == ("超声所见", "超声提示")


def test_no_shown_word_is_another_values_stored_one() -> None:
    # Label Studio finds a choice by what is stored or by what is shown, whichever comes first.
    for choices in ET.fromstring(build_page(language="zh")).iter("Choices"):
        stored = {e.get("alias") or e.get("value") for e in choices}
        assert not stored & {e.get("value") for e in choices if e.get("alias")}


def test_the_page_is_the_same_every_time_and_its_hash_names_it() -> None:
    assert build_page() == build_page(None, "en")
    assert page_hash(build_page()) != page_hash(build_page() + " ")
    pages = {page_hash(build_page(organ, language)) for organ in PAGES for language in LANGUAGES}
    assert len(pages) == len(PAGES) * len(LANGUAGES)


def test_the_settings_say_which_page_a_project_has() -> None:
    assert configured_page(LabelStudioConfig()) == build_page()
    assert configured_page(LabelStudioConfig(page="heart", language="zh")) == build_page("heart", "zh")
