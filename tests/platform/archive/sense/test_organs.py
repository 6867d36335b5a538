"""Organs named by a header's words."""

from __future__ import annotations

import pytest

from sonoloop.platform.archive.sense.organs import organ_from_text


@pytest.mark.parametrize(
    ("text", "organ"),
    [
        ("BREAST", "breast"),
        ("US mamma links", "breast"),
        ("Thyroid gland, follow-up", "thyroid"),
        ("hepatic lesion", "liver"),
        ("LEFT KIDNEYS / renal", "kidney"),
        ("Carotid duplex", "vessel"),
        ("ECHOCARDIOGRAPHY", "heart"),
        ("UTERUS and ovaries", "ovary"),
        ("Gynaecological, transvaginal", "ovary"),
        ("renal pelvis", "kidney"),
        ("pelvis", None),
        ("cardiac, carotid", None),
        ("liver and kidney", None),
        ("abdomen", None),
        ("deliverynote adrenal", None),
        ("", None),
    ],
)
def test_one_named_organ_is_taken_and_several_or_none_are_not(text: str, organ: str | None) -> None:
    assert organ_from_text(text) == organ
