"""A header under the Basic Application Level Confidentiality Profile and its options.

Source: DICOM PS3.15 2026c, E.1 to E.3; PS3.16 CID 7050. What goes beyond the profile is said in `rules`.
"""

from __future__ import annotations

from pydantic import SecretStr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr import codes
from pydicom.uid import ExplicitVRLittleEndian

from sonoloop.platform.archive.confidentiality.config import CONFIDENTIALITY_VERSION, ConfidentialityConfig
from sonoloop.platform.archive.confidentiality.elements import (
    all_elements,
    readable_elements,
    values_of,
)
from sonoloop.platform.archive.confidentiality.identifiers import identifiers_of
from sonoloop.platform.archive.confidentiality.rules import Rules, cleaned
from sonoloop.platform.archive.confidentiality.table import EDITION
from sonoloop.platform.archive.confidentiality.values import shift_of
from sonoloop.platform.archive.reading.pixels import quiet

_CODES = codes.cid7050
_OPTION_CODES = {
    "clean_structured_content": _CODES.CleanStructuredContentOption,
    "clean_descriptors": _CODES.CleanDescriptorsOption,
    "retain_patient_characteristics": _CODES.RetainPatientCharacteristicsOption,
    "retain_device_identity": _CODES.RetainDeviceIdentityOption,
    "retain_institution_identity": _CODES.RetainInstitutionIdentityOption,
    "retain_uids": _CODES.RetainUidsOption,
    "keep_private": _CODES.RetainSafePrivateOption,
}
_DATE_CODES = {
    "keep": _CODES.RetainLongitudinalTemporalInformationFullDatesOption,
    "shift": _CODES.RetainLongitudinalTemporalInformationModifiedDatesOption,
}
_DATES_ARE = {"keep": "UNMODIFIED", "shift": "MODIFIED", "remove": "REMOVED"}


def deidentify_header(dataset: Dataset, config: ConfidentialityConfig, *, key: SecretStr) -> Dataset:
    """A new header without identifiers; the one given is left as it is, and its pixels stay behind.

    ``PatientID`` becomes the ``patient_key`` of the workspace's tables. File meta and preamble are made
    anew; of the source's, nothing stays.

    Args:
        dataset: A DICOM header, with or without pixels.
        config: The options.
        key: Secret of the hashes and of the shift of dates.
    """
    with quiet():
        rules = Rules(config, key, shift_of(_patient_id(dataset), key), identifiers_of(all_elements(dataset)))
        result = cleaned(dataset, rules)
    result.PatientIdentityRemoved = "YES"
    result.DeidentificationMethod = [
        f"DICOM PS3.15 {EDITION} Basic Application Confidentiality Profile",
        f"sonoloop header rules {CONFIDENTIALITY_VERSION}",
    ]
    result.DeidentificationMethodCodeSequence = _methods(config)
    result.LongitudinalTemporalInformationModified = _DATES_ARE[config.dates]
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = result.get("SOPClassUID", "")
    result.file_meta.MediaStorageSOPInstanceUID = result.get("SOPInstanceUID", "")
    result.preamble = bytes(128)
    return result


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _patient_id(dataset: Dataset) -> str:
    """Who the dates belong to, named as the reader of the archive names patients."""
    found = {element.keyword: values_of(element) for element in readable_elements(dataset)}
    names = ("PatientID", "StudyInstanceUID", "SOPInstanceUID")
    return next((value for name in names for value in found.get(name, ()) if value), "")


def _methods(config: ConfidentialityConfig) -> list[Dataset]:
    """Codes of the profile and of the options in use."""
    used = [_CODES.BasicApplicationConfidentialityProfile]
    used += [code for option, code in _OPTION_CODES.items() if getattr(config, option)]
    used += [_DATE_CODES[config.dates]] if config.dates in _DATE_CODES else []
    return [coded(code.value, code.scheme_designator, code.meaning) for code in used]
