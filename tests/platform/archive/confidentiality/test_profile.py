"""A header under the profile: what stands where identifiers were, and that none comes through."""

from __future__ import annotations

import io
from datetime import date
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UltrasoundImageStorage
from tests.dicom_files import IDENTIFIERS, NAME, PATIENT_ID, STUDY, speckle, ultrasound

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig
from sonoloop.platform.archive.confidentiality.profile import deidentify_header
from sonoloop.platform.archive.reading.pixels import quiet
from sonoloop.platform.identity import pseudonym

KEY = SecretStr("0123456789abcdef0123456789abcdef")
BASIC = ConfidentialityConfig()
OPTIONS: list[dict[str, Any]] = [
    {},
    {"clean_descriptors": True},
    {"clean_structured_content": True},
    {"retain_device_identity": True},
    {"retain_patient_characteristics": True},
    {"dates": "remove"},
]
TEXT = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")


def _read(**header: Any) -> Dataset:
    return pydicom.dcmread(io.BytesIO(ultrasound(speckle(), **header)))


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    with quiet():
        dataset.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


def test_no_identifier_of_a_header_is_left_and_the_one_given_stays_as_it_was() -> None:
    dataset = _read()
    before = dataset.to_json()
    result = deidentify_header(dataset, BASIC, key=KEY)
    assert dataset.to_json() == before
    assert "PixelData" not in result
    data = _bytes(result)
    assert not [text for text in IDENTIFIERS if text.encode() in data]


def test_the_patient_is_named_as_in_the_workspace() -> None:
    result = deidentify_header(_read(), BASIC, key=KEY)
    assert result.PatientID == pseudonym(KEY, "patient", PATIENT_ID)
    assert result.PatientName == ""
    assert result.PatientBirthDate == ""
    assert len(result.AccessionNumber) == 16


def test_the_header_says_what_was_done_to_it() -> None:
    config = ConfidentialityConfig(clean_descriptors=True, retain_uids=True)
    result = deidentify_header(_read(), config, key=KEY)
    assert result.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in result.DeidentificationMethodCodeSequence] == [
        "113100",
        "113105",
        "113110",
        "113107",
    ]
    assert result.LongitudinalTemporalInformationModified == "MODIFIED"


def test_one_uid_becomes_one_uid_wherever_it_occurs_and_no_class_changes() -> None:
    image = Dataset()
    image.ReferencedSOPClassUID = UltrasoundImageStorage
    image.ReferencedSOPInstanceUID = f"{STUDY}.1.1"
    dataset = _read(SourceImageSequence=Sequence([image]), FrameOfReferenceUID=STUDY)
    result = deidentify_header(dataset, BASIC, key=KEY)
    source = result.SourceImageSequence[0]
    assert (
        result.SOPInstanceUID
        == source.ReferencedSOPInstanceUID
        == result.file_meta.MediaStorageSOPInstanceUID
    )
    assert result.StudyInstanceUID == result.FrameOfReferenceUID != STUDY
    assert result.SOPClassUID == source.ReferencedSOPClassUID == UltrasoundImageStorage
    assert result.StudyInstanceUID.is_valid
    assert result.StudyInstanceUID.startswith("2.25.")
    other = deidentify_header(dataset, BASIC, key=SecretStr("another key, long enough"))
    assert other.StudyInstanceUID != result.StudyInstanceUID


def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:8]))


def test_the_days_between_a_patient_s_dates_stay_and_the_dates_do_not() -> None:
    first = _read(StudyDate="20190105", StudyTime="101500", AcquisitionDateTime="20190105101512.5+0100")
    second = _read(StudyDate="20200229", InstanceCreationDate="20200301")
    one, two = (deidentify_header(dataset, BASIC, key=KEY) for dataset in (first, second))
    assert _day(two.StudyDate) - _day(one.StudyDate) == date(2020, 2, 29) - date(2019, 1, 5)
    assert 30 <= (date(2019, 1, 5) - _day(one.StudyDate)).days <= 1855
    assert one.AcquisitionDateTime == one.StudyDate + "101512.5+0100"
    assert one.StudyTime == "101500"
    assert (_day(two.InstanceCreationDate) - _day(two.StudyDate)).days == 1
    other = deidentify_header(_read(StudyDate="20190105", PatientID="PID-2"), BASIC, key=KEY)
    assert other.StudyDate != one.StudyDate


@pytest.mark.parametrize(("dates", "expected"), [("keep", "20190105"), ("remove", ""), ("shift", "other")])
def test_dates_are_kept_removed_or_shifted_as_asked_and_the_birth_date_is_always_removed(
    dates: str, expected: str
) -> None:
    config = ConfidentialityConfig.model_validate({"dates": dates})
    result = deidentify_header(_read(StudyDate="20190105"), config, key=KEY)
    assert result.StudyDate == expected or (expected == "other" and len(result.StudyDate) == 8)
    assert result.PatientBirthDate == ""


def test_a_date_that_is_none_is_emptied() -> None:
    with quiet():
        result = deidentify_header(_read(StudyDate="ZIMMERMA"), BASIC, key=KEY)
    assert result.StudyDate == ""


def test_private_attributes_go_unless_they_are_listed_and_name_nobody() -> None:
    dataset = _read()
    block = dataset.private_block(0x0019, "MAKER 1", create=True)
    block.add_new(0x10, "DS", "0.25")
    block.add_new(0x11, "LO", "for Zimmermann")
    block.add_new(0x12, "OB", b"\x00ADELHEID\x00\x00")
    assert not [e for e in deidentify_header(dataset, BASIC, key=KEY) if e.tag.is_private]
    listed = tuple(("MAKER 1", f"0019xx{element:02x}") for element in (0x10, 0x11, 0x12))
    kept = deidentify_header(dataset, ConfidentialityConfig(keep_private=listed), key=KEY)
    assert [str(e.value) for e in kept if e.tag.is_private] == ["MAKER 1", "0.25"]


def test_a_description_keeps_the_words_that_the_lexicon_knows() -> None:
    config = ConfidentialityConfig(clean_descriptors=True)
    text = "Zimmermann: LIVER, left lobe, Dr. Meier 0664 1234567"
    assert (
        deidentify_header(_read(StudyDescription=text), config, key=KEY).StudyDescription == "LIVER left lobe"
    )
    named_so = _read(StudyDescription="Left liver", PatientName="Liver^Anna")
    assert deidentify_header(named_so, config, key=KEY).StudyDescription == "Left"
    assert "StudyDescription" not in deidentify_header(_read(StudyDescription="Meier"), config, key=KEY)


def test_a_name_in_an_attribute_that_the_profile_keeps_takes_that_attribute_with_it() -> None:
    dataset = _read(ManufacturerModelName="Adelheid's scanner", BodyPartExamined="ZIMMERMANN")
    result = deidentify_header(dataset, BASIC, key=KEY)
    assert "ManufacturerModelName" not in result
    assert "BodyPartExamined" not in result
    assert result.Manufacturer == "Maker"


def test_ages_of_ninety_and_more_are_one_age() -> None:
    config = ConfidentialityConfig(retain_patient_characteristics=True)
    ages = {"034Y": "034Y", "089Y": "089Y", "097Y": "090Y", "011D": "011D", "old": ""}
    for age, expected in ages.items():
        with quiet():
            assert deidentify_header(_read(PatientAge=age), config, key=KEY).PatientAge == expected


def test_pictures_within_the_header_are_removed() -> None:
    icon = Dataset()
    icon.Rows = icon.Columns = 2
    icon.BitsAllocated = 8
    icon.PixelData = b"\x00" * 4
    dataset = _read(IconImageSequence=Sequence([icon]))
    dataset.add_new(0x60003000, "OW", b"\x00" * 8)
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x50003000, "OW", b"\x00" * 8)
    result = deidentify_header(dataset, BASIC, key=KEY)
    assert "IconImageSequence" not in result
    assert not [tag for tag in result.keys() if tag.group in (0x5000, 0x6000)]  # noqa: SIM118


def test_what_the_dictionary_does_not_know_or_knows_otherwise_is_removed() -> None:
    dataset = _read()
    dataset.add_new(0x00091001, "UN", b"ZIMM")
    dataset.add_new(0x00220FFE, "LO", "nobody knows me")
    dataset.add_new(0x00180022, "LO", "scan options are CS")
    result = deidentify_header(dataset, BASIC, key=KEY)
    assert not {Tag(0x00091001), Tag(0x00220FFE), Tag(0x00180022)} & set(result.keys())


def test_regions_and_physical_deltas_stay() -> None:
    dataset = _read()
    region = dataset.SequenceOfUltrasoundRegions[0]
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.0125
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    result = deidentify_header(dataset, BASIC, key=KEY)
    assert result.SequenceOfUltrasoundRegions == dataset.SequenceOfUltrasoundRegions


changes = st.lists(st.tuples(st.integers(132, 1400), st.integers(0, 255)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(changes, st.sampled_from(OPTIONS))
def test_a_header_with_bytes_that_were_altered_is_cleaned_or_was_no_header(
    altered: list[tuple[int, int]], options: dict[str, Any]
) -> None:
    data = bytearray(ultrasound(speckle()))
    for place, value in altered:
        data[place] = value
    with quiet():
        try:
            dataset = pydicom.dcmread(io.BytesIO(bytes(data)))
        except Exception:  # refused by the reader, before this
            return
        result = deidentify_header(dataset, ConfidentialityConfig.model_validate(options), key=KEY)
    left = _bytes(result).lower()
    assert b"zimmermann" not in left
    assert b"adelheid" not in left


HIPAA = {
    "name": "ZIMMERMANN",
    "place": "Kirchengasse",
    "birth date": "19490517",
    "phone": "0664-5551234",
    "fax": "0664-5559876",
    "mail": "adelheid@example.org",
    "social security": "123-45-6789",
    "record number": "PID-471108",
    "health plan": "HP-778899",
    "account": "KTO-554433",
    "licence": "LIC-221100",
    "vehicle": "W-12345X",
    "device": "SN-A1B2C3",
    "url": "https://example.org/azimm",
    "address": "10.11.12.213",
    "biometric": "VOICE-9F",
    "photograph": "FACE-7E",
    "other": "CASE-0815-77",
}
"""One value for each kind of identifier in 45 CFR 164.514(b)(2)(i)."""
PLANTABLE = [
    (tag, entry[0])
    for tag, entry in DicomDictionary.items()
    if entry[0] in TEXT and entry[1].startswith("1") and tag >> 16 > 8 and tag != 0x00080005
]


@pytest.mark.parametrize("options", OPTIONS)
def test_identifiers_planted_into_every_text_attribute_and_sequence_do_not_come_through(
    options: dict[str, Any],
) -> None:
    planted = _planted()
    assert len(planted) > 1400
    data = _bytes(deidentify_header(planted, ConfidentialityConfig.model_validate(options), key=KEY))
    left = [kind for kind, value in HIPAA.items() if value.casefold() in data.decode("latin-1").casefold()]
    kept_device = ["device"] if options.get("retain_device_identity") else []
    assert [kind for kind in left if kind not in kept_device] == []


def _planted() -> Dataset:
    """Each identifier where it belongs, and all in turn in every text attribute, three levels deep."""
    values = list(HIPAA.values())
    dataset = _read()
    dataset.OtherPatientIDs = values
    dataset.PatientID = HIPAA["record number"]
    inner, middle = Dataset(), Dataset()
    with quiet():
        for place, (tag, vr) in enumerate(PLANTABLE):
            for level, target in enumerate((dataset, middle, inner)):
                if target is dataset and tag in dataset:
                    continue
                target.add(DataElement(tag, vr, values[(place + level) % len(values)]))
        middle.add_new(0x00081140, "SQ", Sequence([inner]))
        for place in (0x00082112, 0x0040A730, 0x00186011, 0x00400555, 0x00400275):
            dataset.add_new(place, "SQ", Sequence([middle]))
    return dataset


texts = st.text(alphabet=st.characters(codec="latin-1", exclude_categories=("Cc",)), max_size=20)
values = st.one_of(texts, st.sampled_from((NAME, "Zimmermann", PATIENT_ID, "x Adelheid y")))
elements = st.tuples(st.sampled_from(PLANTABLE), values)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(elements, max_size=20),
    st.lists(elements, max_size=8),
    st.sampled_from(OPTIONS),
    st.sampled_from((0x00082112, 0x0040A730, 0x00186011, 0x00091001)),
)
def test_no_header_crashes_and_none_lets_its_patient_through(
    flat: list[Any], nested: list[Any], options: dict[str, Any], sequence: int
) -> None:
    dataset = _read()
    item = Dataset()
    with quiet():
        for target, planted in ((dataset, flat), (item, nested)):
            for (tag, vr), value in planted:
                if tag not in dataset or target is item:
                    target.add(DataElement(tag, vr, value))
        dataset.add_new(sequence, "SQ", Sequence([item]))
        result = deidentify_header(dataset, ConfidentialityConfig.model_validate(options), key=KEY)
        again = deidentify_header(dataset, ConfidentialityConfig.model_validate(options), key=KEY)
    assert result == again
    data = _bytes(result).decode("latin-1").casefold()
    assert not [text for text in ("zimmermann", "adelheid", "pid-471108") if text in data]
