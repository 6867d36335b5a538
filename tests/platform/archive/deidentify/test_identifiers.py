"""A file's own names, numbers and dates are recognised however they are drawn and misread."""

from __future__ import annotations

import copy
import dataclasses
import io
from datetime import date

import pytest
from dicom_files import picture, speckle, ultrasound
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sonoloop.platform.archive.deidentify.identifiers import Identifiers, identifiers_of
from sonoloop.platform.archive.reading.open import open_instance

OPENED = open_instance(io.BytesIO(ultrasound(speckle())), name="x")


def of(**header: object) -> Identifiers:
    assert OPENED.dataset is not None
    dataset = copy.copy(OPENED.dataset)
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    return identifiers_of(dataclasses.replace(OPENED, dataset=dataset))


@pytest.mark.parametrize(
    "text",
    [
        "ZIMMERMANN A",
        "Zimmermann, Adelheid",
        "Z1MMERMANN",
        "ZIMMERMAN",
        "Adelhcid",
        "ADELHEIDZIMMERMANN",
        "MMERMANN",
        "A. Zimmermann 76 J",
        "PID 471108",
        "PlD-471l08",
        "ID:47II08",
        "17.05.1949",
        "17-MAY-49",
        "5/17/1949",
        "19490517",
        "17 Mai 1949",
        "May 17, 1949",
        "*17.5.49",
        "ACC90210",
        "Acc 9021O",
        "Hospital Nowhere",
        "NOWHERE",
    ],
)
def test_the_headers_identifiers_are_found(text: str) -> None:
    assert of().are_in(text)


@pytest.mark.parametrize(
    "text", ["Liver", "MI 0.6", "12.3 cm", "2D 60%", "Rt Kidney Long", "19 fps", "18.05.1949", "", "-"]
)
def test_other_text_holds_none(text: str) -> None:
    assert not of().are_in(text)


def test_short_names_count_as_whole_words_only() -> None:
    found = of(PatientName="Ng^Mi")
    assert found.are_in("MI 0.6")
    assert found.are_in("Dr Ng")
    assert not found.are_in("SONOGRAM MIDDLE")


def test_names_of_staff_and_nested_items_count() -> None:
    found = of(PerformingPhysicianName="Oyelaran^Tunde", OperatorsName=["Kowalczyk^Ewa", "Petrov^Ilja"])
    assert all(map(found.are_in, ("Dr. Oyelaran", "KOWALCZYK", "petrov")))


def test_a_pictures_path_counts_but_not_its_organs_and_short_words() -> None:
    opened = open_instance(io.BytesIO(picture()), name="liver/Kowalczyk_Ewa/20240311/img_1.png")
    found = identifiers_of(opened)
    assert found.are_in("KOWALCZYK")
    assert found.are_in("20240311")
    assert not found.are_in("Liver")


def test_nothing_of_them_is_shown() -> None:
    assert "ZIMMERMANN" not in repr(of()).upper()


FORMS = (
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%Y-%m-%d",
    "%Y%m%d",
    "%d-%b-%Y",
    "%d %B %Y",
    "%B %d, %Y",
    "%d/%m/%y",
    "%d%b%Y",
)


@settings(max_examples=200, deadline=None)
@given(st.dates(min_value=date(1900, 1, 1), max_value=date(2100, 1, 1)), st.sampled_from(FORMS))
def test_any_birth_date_is_found_in_any_form(day: date, form: str) -> None:
    found = of(PatientBirthDate=f"{day:%Y%m%d}")
    assert found.are_in(day.strftime(form))
    assert found.are_in(f"DOB: {day.strftime(form)}  M")


@settings(max_examples=200, deadline=None)
@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=7, max_size=14), st.data())
def test_one_wrong_letter_hides_no_name(name: str, data: st.DataObject) -> None:
    assume(name not in ("UNKNOWN", "ANONYMOUS"))  # fillers of name fields
    place = data.draw(st.integers(0, len(name) - 1))
    other = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ0158"))
    assert of(PatientName=name).are_in(f"{name[:place]}{other}{name[place + 1 :]}")
