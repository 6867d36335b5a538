"""A case's result as a DICOM Structured Report: TID 1500 Measurement Report, in a Comprehensive SR.

The lesion is a measurement group per box (TID 1410), all with one tracking UID, or one without a region
(TID 1501). Its first group carries size, site and descriptors. Statements on the organ stand in a group of
their own, which also lists the images. Findings and impression are texts of the container "Qualitative
Evaluations" (TID 1500, rows 12 to 14). A draft is PARTIAL, PRELIMINARY and UNVERIFIED; a review is
COMPLETE, FINAL and VERIFIED by the pseudonym of the person who made it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Literal

import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydantic import SecretStr
from pydicom.dataset import Dataset
from pydicom.sr import codes
from pydicom.valuerep import DA, DT, TM

from sonoloop.platform.archive.confidentiality.values import hashed_uid
from sonoloop.platform.archive.reading.pixels import quiet
from sonoloop.platform.export.concepts import (
    FINDINGS,
    IMPRESSION,
    LESION,
    Concept,
    Statement,
    organ_concept,
    statements_of,
)
from sonoloop.platform.export.results import Result
from sonoloop.platform.lexicon import LesionBox
from sonoloop.platform.records import CaseImage

MANUFACTURER = "sonoloop"
SERIES_NUMBER = 9001
DEVICE_UID = "2.25.217412862184011823213480413209331843047"
"""Names sonoloop as an observer, whichever machine it runs on."""
Language = Literal["en", "zh"]
_LANGUAGES = {"en": "English", "zh": "Chinese"}
_EVALUATIONS = Concept("UMLS", "C0034375", "Qualitative Evaluations")


def structured_report(
    result: Result, headers: Mapping[str, Dataset], key: SecretStr, *, language: Language = "en"
) -> bytes:
    """The report as a DICOM file; the same result gives the same bytes.

    Args:
        result: What to report.
        headers: De-identified headers of the case's instances, by instance id.
        key: Secret of the report's UIDs.
        language: Of findings and impression.
    """
    written = result.written_at
    with quiet():
        report = sr.ComprehensiveSR(
            evidence=list(headers.values()),
            content=_content(result, headers, key, language),
            series_instance_uid=hashed_uid(f"sr-series {result.case.case_id}", key),
            series_number=SERIES_NUMBER,
            sop_instance_uid=hashed_uid(f"sr {result.content_id}", key),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=version("sonoloop"),
            series_description="Reviewed" if result.is_reviewed else "Draft, not reviewed",
            specific_character_set="ISO_IR 192",
            content_date=written.date(),
            content_time=written.time(),
            is_complete=result.is_reviewed,
            is_final=result.is_reviewed,
            is_verified=result.is_reviewed,
            verifying_observer_name=_person(result.reader) if result.reader else None,
            verifying_organization=MANUFACTURER if result.is_reviewed else None,
        )
        _date(report, written)
        buffer = io.BytesIO()
        report.save_as(buffer)
    return buffer.getvalue()


def _date(report: Dataset, written: datetime) -> None:
    """When the result was written, instead of now, so that the same result is the same file."""
    report.InstanceCreationDate, report.InstanceCreationTime = DA(written.date()), TM(written.time())
    report.TimezoneOffsetFromUTC = "+0000"
    for observer in report.get("VerifyingObserverSequence", []):
        observer.VerificationDateTime = DT(written)
    for equipment in report.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = DT(written)


def _content(
    result: Result, headers: Mapping[str, Dataset], key: SecretStr, language: Language
) -> sr.MeasurementReport:
    report = sr.MeasurementReport(
        observation_context=_observers(result),
        procedure_reported=codes.LN.UltrasoundReport,
        imaging_measurements=_groups(result, headers, key),
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept(language, "RFC5646", _LANGUAGES[language])
        ),
    )
    texts = ((FINDINGS, result.findings), (IMPRESSION, result.impression))
    items = [
        sr.TextContentItem(_coded(name), text, sr.RelationshipTypeValues.CONTAINS)
        for name, text in texts
        if text.strip()
    ]
    if items:
        container = sr.ContainerContentItem(
            _coded(_EVALUATIONS), relationship_type=sr.RelationshipTypeValues.CONTAINS
        )
        container.ContentSequence = sr.ContentSequence(items)
        report[0].ContentSequence.append(container)
    return report


def _observers(result: Result) -> sr.ObservationContext:
    device = sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            uid=DEVICE_UID,
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=result.model_version or MANUFACTURER,
        ),
    )
    if result.reader is None:
        return sr.ObservationContext(observer_device_context=device)
    person = sr.ObserverContext(
        codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name=_person(result.reader))
    )
    return sr.ObservationContext(observer_person_context=person, observer_device_context=device)


def _person(reader: str) -> str:
    """A name of one part; the caret says so."""
    return f"{reader}^"


def _groups(result: Result, headers: Mapping[str, Dataset], key: SecretStr) -> list[Dataset]:
    statements = [] if result.entities is None else list(statements_of(result.entities))
    of_lesion = [statement for statement in statements if statement.is_about_lesion]
    of_organ = [statement for statement in statements if not statement.is_about_lesion]
    groups = [_organ_group(result, of_organ, headers, key)]
    boxes = [box for box in result.boxes if result.case.images[box.image_index].instance_id in headers]
    for place, box in enumerate(boxes):
        groups.append(_region_group(result, box, of_lesion if place == 0 else [], headers, key))
    if of_lesion and not boxes:
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=_tracking(result, "lesion", key),
                finding_type=_coded(LESION),
                finding_sites=[_site(of_lesion[0], of_lesion)],
                measurements=_measurements(of_lesion),
                qualitative_evaluations=_evaluations(of_lesion),
            )
        )
    return groups


def _organ_group(
    result: Result, statements: Sequence[Statement], headers: Mapping[str, Dataset], key: SecretStr
) -> sr.MeasurementsAndQualitativeEvaluations:
    """What is said about the organ, if anything, and which images it was seen on."""
    images = [image for image in result.case.images if image.instance_id in headers]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(result, "organ", key),
        finding_sites=[sr.FindingSite(_coded(organ_concept(result.organ)))] if result.organ else None,
        qualitative_evaluations=_evaluations(statements),
        source_images=[
            sr.SourceImageForMeasurementGroup(*_reference(headers[image.instance_id], image))
            for image in images
        ],
    )


def _region_group(
    result: Result,
    box: LesionBox,
    statements: Sequence[Statement],
    headers: Mapping[str, Dataset],
    key: SecretStr,
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    image = result.case.images[box.image_index]
    source = sr.SourceImageForRegion(*_reference(headers[image.instance_id], image))
    region = sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, _corners(box, image.width, image.height), source)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(result, "lesion", key),
        referenced_region=region,
        finding_type=_coded(LESION),
        finding_sites=[_site(statements[0], statements)] if statements else None,
        measurements=_measurements(statements),
        qualitative_evaluations=_evaluations(statements),
    )


def _reference(header: Dataset, image: CaseImage) -> tuple[str, str, list[int] | None]:
    """Class and instance, and the frame, counted from 1, where the instance can have several."""
    frames = [image.frame_index + 1] if header.get("NumberOfFrames") else None
    return header.SOPClassUID, header.SOPInstanceUID, frames


def _corners(box: LesionBox, width: int, height: int) -> NDArray[np.float64]:
    """The box as a closed polyline ``(5, 2)`` of column and row, origin at the image's corner."""
    left, right = box.x * width, min(box.x + box.width, 1) * width
    top, bottom = box.y * height, min(box.y + box.height, 1) * height
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    return np.round(np.array(corners), 3)


def _tracking(result: Result, what: str, key: SecretStr) -> sr.TrackingIdentifier:
    uid = hashed_uid(f"sr-{what} {result.case.case_id}", key)
    return sr.TrackingIdentifier(uid=uid, identifier=what)


def _site(about: Statement, statements: Sequence[Statement]) -> sr.FindingSite:
    side = next((s.concept for s in statements if s.field == "laterality"), None)
    return sr.FindingSite(
        anatomic_location=_coded(organ_concept(about.organ)), laterality=_coded(side) if side else None
    )


def _evaluations(statements: Sequence[Statement]) -> list[sr.QualitativeEvaluation]:
    return [
        sr.QualitativeEvaluation(_coded(s.name), _coded(s.concept))
        for s in statements
        if isinstance(s.value, str) and s.field != "laterality"
    ]


def _measurements(statements: Sequence[Statement]) -> list[sr.Measurement]:
    return [
        sr.Measurement(_coded(s.name), float(s.value), codes.UCUM.Millimeter)
        for s in statements
        if isinstance(s.value, int)
    ]


def _coded(concept: Concept) -> sr.CodedConcept:
    return sr.CodedConcept(concept.value, concept.scheme, concept.meaning)
