from __future__ import annotations

import pytest

from sonoloop.model.prompts import (
    ENTITIES_PROMPT,
    entities_turns,
    format_report,
    parse_report,
    report_prompt,
    report_turns,
)
from sonoloop.platform.lexicon import ORGANS


def test_a_formatted_report_parses_into_its_sections() -> None:
    assert parse_report(format_report("An oval mass.", "Benign.")) == ("An oval mass.", "Benign.")


@pytest.mark.parametrize(
    "text",
    [
        "ultrasound findings: A mass.\nUltrasound Impression: Benign.",
        "  ULTRASOUND FINDINGS :\n A mass.\n\nULTRASOUND  IMPRESSION:  Benign.\n",
        "Ultrasound findings:A mass.Ultrasound impression:Benign.",
    ],
)
def test_headings_may_differ_in_case_and_whitespace(text: str) -> None:
    assert parse_report(text) == ("A mass.", "Benign.")


def test_sections_keep_their_inner_lines() -> None:
    assert parse_report("Ultrasound findings: One.\nTwo. Ultrasound impression: Three.\nFour.") == (
        "One.\nTwo.",
        "Three.\nFour.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A mass.",
        "Ultrasound findings: A mass.",
        "Ultrasound impression: Benign.",
        "Ultrasound findings: Ultrasound impression: Benign.",
        "Ultrasound findings: A mass. Ultrasound impression:  ",
        "Ultrasound impression: Benign. Ultrasound findings: A mass.",
        "Sure! Ultrasound findings: A mass. Ultrasound impression: Benign.",
        "Ultrasound findings: A. Ultrasound findings: B. Ultrasound impression: C.",
        "Ultrasound findings: A. Ultrasound impression: B. Ultrasound impression: C.",
    ],
)
def test_a_text_of_another_form_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_report(text)
    assert "mass" not in str(caught.value)
    assert "Benign" not in str(caught.value)


@pytest.mark.parametrize("organ", ORGANS)
def test_the_prompt_names_the_organ_where_it_is_known(organ: str) -> None:
    assert f"Organ: {organ}." in report_prompt(organ)  # type: ignore[arg-type]
    assert "Organ:" not in report_prompt(None)


def test_the_second_turn_continues_the_first() -> None:
    first = report_turns(2, "liver")
    second = entities_turns(2, "liver", "Ultrasound findings: A. Ultrasound impression: B.")
    assert second[: len(first)] == first
    assert [turn["role"] for turn in second] == ["system", "user", "assistant", "user"]
    assert second[-1]["content"][-1]["text"] == ENTITIES_PROMPT


def test_images_stand_before_the_text_of_the_first_user_turn() -> None:
    user = report_turns(3, None)[1]
    assert [part["type"] for part in user["content"]] == ["image", "image", "image", "text"]
