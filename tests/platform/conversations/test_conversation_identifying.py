"""Texts that may say whom they are of are refused with turn and kind, unquoted; usual reports are taken."""

from __future__ import annotations

import pytest

from sonoloop.platform.conversations.formats import parse_conversation
from sonoloop.platform.conversations.identifying import check_texts
from sonoloop.platform.errors import Reason, RejectedError


def check(answer: str, **more: str) -> None:
    turns = [{"from": "human", "value": "<image> Describe it."}, {"from": "gpt", "value": answer}]
    check_texts(parse_conversation({"conversations": turns, "image": "a.png", **more}))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Seen on 17.05.1949 before.", "a date"),
        ("Compared with 3/14/2021.", "a date"),
        ("Compared with 2021-03-14.", "a date"),
        ("检查日期2021年3月14日", "a date"),
        ("Compared with the scan of 14 March 2021.", "a date"),
        ("Unchanged since March 14th.", "a date"),
        ("Unchanged since 14. Mai.", "a date"),
        ("Seen on 3 May 2021.", "a date"),
        ("Seen on May 3rd, 2021.", "a date"),
        ("No. 48213377 in the list.", "a long number"),
        ("Call +49 30 4567 please.", "a long number"),
        ("Call 555 0142777 for more.", "a long number"),
        ("Send to a.b@clinic.org please.", "an address"),
        ("Patient name: Zimmermann. Normal liver.", "a field of a form"),
        ("MRN #A77 normal.", "a field of a form"),
        ("DOB: 1949. Normal.", "a field of a form"),
        ("姓名：王小明 肝脏正常", "a field of a form"),
        ("Discussed with Dr. Zimmermann.", "a title before a name"),
        ("Mrs. E. Zimmermann was lying on her side.", "a title before a name"),
    ],
)
def test_what_may_say_whom_a_text_is_of_is_refused_unquoted(text: str, kind: str) -> None:
    with pytest.raises(RejectedError) as refused:
        check(text)
    assert refused.value.reason == Reason.PHI_SUSPECTED
    assert f"turn 2, the assistant's, holds what looks like {kind};" in refused.value.detail
    assert "Zimmermann" not in refused.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "The liver measures 12.5 x 8.2 cm, the cyst 1.2-3.4 cm.",
        "A hypoechoic nodule at 10:30, 3/4 of the lumen, 12x5x3 mm. BI-RADS 4a.",
        "Three cysts, the largest 1.2 x 3.4 x 05.06 cm. TI-RADS 3; grade 1/2; PI 0.85, RI 0.62, 110/70.",
        "No change since 2019. Peak velocity 120 cm/s at 5.0 MHz.",
        "An ovary of normal size may show follicles; march of time; see figures 1-12.",
        "Segment 5 may be fatty, 2 may be not; 110-120 mmHg, 1000-1500 ml; 4 weeks. +20 % in 12-10-15 mm.",
        "Organ name: thyroid. Patient: 54 years. 患者：女，45岁。",
        "甲状腺右叶大小约4.5cm×1.8cm×1.6cm，回声均匀。TI-RADS 2类。",
        "The patient has a normal kidney. Name the organ: kidney. Doppler: no flow.",
    ],
)
def test_usual_reports_are_taken(text: str) -> None:
    check(text)


def test_an_entrys_own_patient_is_found_and_words_that_stand_for_anything_are_not() -> None:
    for patient, said in (
        ("Zimmermann, Erika", "as in zimmermann"),
        ("case P77AB12", "number p77ab12 again"),
    ):
        with pytest.raises(RejectedError, match="own patient"):
            check(f"The liver is normal, {said}.", patient=patient)
    check("The liver of the patient in this case is normal, the left one.", patient="patient-liver_left 12")
