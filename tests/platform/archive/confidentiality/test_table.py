"""The table of the profile: two tabulations of the standard agree, and options change what they should."""

from __future__ import annotations

import pytest
from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydantic import ValidationError
from pydicom.datadict import keyword_for_tag
from pydicom.tag import Tag

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig
from sonoloop.platform.archive.confidentiality.table import (
    EDITION,
    Action,
    actions,
    basic_actions,
    option_actions,
)

OPTIONS = (
    "retain_uids",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_patient_characteristics",
    "retain_dates",
    "clean_descriptors",
    "clean_structured_content",
)
ADDED_UIDS = {
    # replaced by the basic profile in the newer edition; the options' source is older and does not know them
    "AcquisitionUID",
    "PyramidUID",
    "ReferencedTreatmentPositionGroupUID",
    "SourceFrameOfReferenceUID",
    "TableTopPositionAlignmentUID",
    "DigitalSignatureUID",  # never kept: the header that was signed is no more
    "UID",
}


def _keywords(tags: object) -> set[str]:
    return {keyword_for_tag(tag) for tag in tags}  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_attribute_of_an_option_is_listed_by_the_basic_profile_of_the_other_source(option: str) -> None:
    assert option_actions(option).keys() <= basic_actions().keys()


def test_the_uids_that_an_option_keeps_are_those_that_the_basic_profile_replaces_up_to_listed_ones() -> None:
    replaced = {tag for tag, action in basic_actions().items() if action is Action.UID}
    without_option = _keywords(replaced - option_actions("retain_uids").keys())
    assert without_option == ADDED_UIDS


def test_the_basic_profile_covers_the_whole_edition() -> None:
    listed = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")["ALL_TAGS"]
    assert {Tag(tag) for tag in listed if len(tag) == 2} == basic_actions().keys()
    assert len(basic_actions()) > 600


def test_a_conditional_action_takes_the_form_that_every_type_of_attribute_allows() -> None:
    by_keyword = {keyword_for_tag(tag): action for tag, action in basic_actions().items()}
    assert by_keyword["PatientName"] is Action.EMPTY  # Z
    assert by_keyword["AcquisitionDate"] is Action.EMPTY  # X/Z
    assert by_keyword["ProtocolName"] is Action.DUMMY  # X/D
    assert by_keyword["StationName"] is Action.DUMMY  # X/Z/D
    assert by_keyword["SourceImageSequence"] is Action.UID  # X/Z/U*
    assert by_keyword["ReferencedStudySequence"] is Action.REMOVE  # X/Z, a sequence of type 3
    assert by_keyword["VerifyingObserverIdentificationCodeSequence"] is Action.EMPTY  # Z, also a sequence
    assert by_keyword["StudyDescription"] is Action.REMOVE


def test_keeping_wins_over_cleaning_and_nothing_else_changes() -> None:
    both = actions(ConfidentialityConfig(clean_descriptors=True, retain_patient_characteristics=True))
    assert both[Tag("StudyDescription")] is Action.CLEAN
    assert both[Tag("PatientAge")] is Action.KEEP
    assert actions(ConfidentialityConfig(dates="remove")) == basic_actions()


def test_the_patient_s_birth_and_name_follow_no_option() -> None:
    config = ConfidentialityConfig(
        dates="keep",
        clean_descriptors=True,
        clean_structured_content=True,
        **{name: True for name in OPTIONS if name.startswith("retain") and name != "retain_dates"},
    )
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime", "PatientAddress"):
        assert actions(config)[Tag(name)] == basic_actions()[Tag(name)], name


def test_a_private_attribute_is_named_by_group_and_element() -> None:
    assert ConfidentialityConfig(keep_private=(("GEMS", "0019xx10"),)).keep_private
    for wrong in ("0018xx10", "00191010", "0019XX10", "19xx10"):
        with pytest.raises(ValidationError):
            ConfidentialityConfig(keep_private=(("GEMS", wrong),))
