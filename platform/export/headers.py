"""An instance's header without identifiers, complete enough for what is made of it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr
from pydicom.dataset import Dataset

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig
from sonoloop.platform.archive.confidentiality.elements import all_elements
from sonoloop.platform.archive.confidentiality.identifiers import Identifiers, identifiers_of
from sonoloop.platform.archive.confidentiality.profile import deidentify_header
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.pixels import quiet
from sonoloop.platform.errors import Reason, RejectedError

_TYPE_2 = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber "
    "ReferringPhysicianName StudyID SeriesNumber Manufacturer InstanceNumber PatientOrientation"
)
"""Attributes of type 2 of the ultrasound IODs: present, empty where nothing is known (PS3.3 A.6, A.7)."""


@dataclass(frozen=True)
class CleanHeader:
    """A header without identifiers, and the identifiers that the original had, to look for elsewhere."""

    dataset: Dataset
    identifiers: Identifiers


def clean_header(instance: Instance, config: ConfidentialityConfig, key: SecretStr) -> CleanHeader:
    """The header of a DICOM instance under the confidentiality profile.

    Raises:
        RejectedError: ``NOT_DICOM``.
    """
    if instance.dataset is None:
        raise RejectedError(Reason.NOT_DICOM, "the instance is a picture without a DICOM header")
    with quiet():
        dataset = deidentify_header(instance.dataset, config, key=key)
        identifiers = identifiers_of(all_elements(instance.dataset))
        for name in _TYPE_2.split():
            if name not in dataset:
                setattr(dataset, name, None)
    return CleanHeader(dataset, identifiers)
