"""A case's result as a FHIR R4 bundle: DiagnosticReport, Observations, and what they refer to.

Codes are those of the structured report. Drafts are ``preliminary``, reviews ``final``. Every resource is
validated on its way out with the models of FHIR R4B (4.3.0), the release of the 4.x line that the library
has; none of the resource types and elements used here differs between 4.0.1 and 4.3.0. FHIR R4 has no place
for regions of an image in an Observation; they stand in the structured report and in COCO.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from pydicom.dataset import Dataset

from sonoloop.platform.export.concepts import (
    FINDINGS,
    LESION,
    LOCAL_SCHEME,
    Concept,
    Statement,
    organ_concept,
    statements_of,
)
from sonoloop.platform.export.results import Result
from sonoloop.platform.lexicon import NOT_ASSESSED

Resource = dict[str, Any]

_NAMESPACE = uuid.UUID("6f0c2f0e-7b53-5d0c-9a51-2a41b0c5a7de")
LOCAL_SYSTEM = f"urn:uuid:{uuid.uuid5(_NAMESPACE, 'lexicon')}"
PSEUDONYM_SYSTEM = f"urn:uuid:{uuid.uuid5(_NAMESPACE, 'pseudonyms')}"
_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    LOCAL_SCHEME: LOCAL_SYSTEM,
}
_REPORT = ("http://loinc.org", "18748-4", "Diagnostic imaging study")
_ULTRASOUND = ("http://terminology.hl7.org/CodeSystem/v2-0074", "RUS", "Radiology Ultrasound")
_IMAGING = ("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")
_NOT_PERFORMED = (
    "http://terminology.hl7.org/CodeSystem/data-absent-reason",
    "not-performed",
    "Not Performed",
)
_UNITS = "http://unitsofmeasure.org"


def bundle_json(result: Result, headers: Mapping[str, Dataset], *, language: str = "en") -> str:
    """The bundle as JSON; the same result gives the same text.

    Args:
        result: What to report.
        headers: De-identified headers of the case's DICOM instances, by instance id; may be empty.
        language: Of findings and impression.
    """
    resources = _Bundle(result, headers, language).resources()
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": result.written_at.isoformat(),
        "entry": [{"fullUrl": url, "resource": resource} for url, resource in resources.items()],
    }
    return str(Bundle.model_validate(bundle).model_dump_json(indent=1))


class _Bundle:
    """The resources of one result; they refer to each other by URLs made of their content."""

    def __init__(self, result: Result, headers: Mapping[str, Dataset], language: str) -> None:
        self._result = result
        self._headers = list(headers.values())
        self._language = language
        self._status = "final" if result.is_reviewed else "preliminary"
        self._patient = self._url("Patient", result.case.patient_key)
        self._device = self._url("Device", result.model_version or "")
        self._study = self._url("ImagingStudy", result.case.case_id)
        self._reader = self._url("Practitioner", result.reader or "")

    def resources(self) -> dict[str, Resource]:
        """URL to resource, in the order of the bundle."""
        observations = {
            self._url("Observation", self._result.content_id, str(place)): observation
            for place, observation in enumerate(self._observations())
        }
        found = {self._patient: self._identified("Patient", self._result.case.patient_key)}
        found[self._device] = self._device_resource()
        if self._result.reader is not None:
            found[self._reader] = self._identified("Practitioner", self._result.reader)
        if self._headers:
            found[self._study] = _imaging_study(self._headers, self._patient)
        report = self._report(list(observations))
        return {**found, self._url("DiagnosticReport", self._result.content_id): report, **observations}

    def _url(self, *parts: str) -> str:
        return f"urn:uuid:{uuid.uuid5(_NAMESPACE, chr(0).join(parts))}"

    def _identified(self, kind: str, pseudonym: str) -> Resource:
        return {"resourceType": kind, "identifier": [{"system": PSEUDONYM_SYSTEM, "value": pseudonym}]}

    def _device_resource(self) -> Resource:
        version = self._result.model_version
        return {
            "resourceType": "Device",
            "deviceName": [{"name": "sonoloop", "type": "model-name"}],
            **({"version": [{"value": version}]} if version else {}),
        }

    def _report(self, observations: Sequence[str]) -> Resource:
        reader, impression = self._result.reader, self._result.impression.strip()
        return {
            "resourceType": "DiagnosticReport",
            "language": self._language,
            "status": self._status,
            "category": [_concept(_ULTRASOUND)],
            "code": _concept(_REPORT),
            "subject": {"reference": self._patient},
            **_effective(self._headers),
            "issued": self._result.written_at.isoformat(),
            "performer": [{"reference": self._reader if reader else self._device}],
            **({"resultsInterpreter": [{"reference": self._reader}]} if reader else {}),
            "result": [{"reference": url} for url in observations],
            **({"imagingStudy": [{"reference": self._study}]} if self._headers else {}),
            **({"conclusion": impression} if impression else {}),
        }

    def _observations(self) -> Iterator[Resource]:
        findings, entities = self._result.findings.strip(), self._result.entities
        if findings:
            yield {**self._observation(_coded(FINDINGS)), "valueString": findings}
        if entities is None:
            return
        site = {"bodySite": _coded(organ_concept(entities.organ))}
        statements = list(statements_of(entities))
        components = [
            {"code": _coded(statement.name), **_value(statement)}
            for statement in statements
            if statement.is_about_lesion
        ]
        for statement in statements:
            if not statement.is_about_lesion:
                observation = {**self._observation(_coded(statement.name)), **site, **_value(statement)}
                is_lesion = statement.name == LESION and components
                yield {**observation, "component": components} if is_lesion else observation

    def _observation(self, code: Resource) -> Resource:
        return {
            "resourceType": "Observation",
            "status": self._status,
            "category": [_concept(_IMAGING)],
            "code": code,
            "subject": {"reference": self._patient},
            **_effective(self._headers),
            "device": {"reference": self._device},
            **({"derivedFrom": [{"reference": self._study}]} if self._headers else {}),
        }


def _imaging_study(headers: Sequence[Dataset], patient: str) -> Resource:
    series: dict[str, list[Dataset]] = {}
    for header in headers:
        series.setdefault(str(header.SeriesInstanceUID), []).append(header)
    return {
        "resourceType": "ImagingStudy",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{headers[0].StudyInstanceUID}"}],
        "status": "available",
        "subject": {"reference": patient},
        "series": [
            {
                "uid": uid,
                "modality": _coding(("http://dicom.nema.org/resources/ontology/DCM", "US", "Ultrasound")),
                "instance": [_instance(header) for header in members],
            }
            for uid, members in series.items()
        ],
    }


def _instance(header: Dataset) -> Resource:
    sop_class = {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{header.SOPClassUID}"}
    return {"uid": str(header.SOPInstanceUID), "sopClass": sop_class}


def _effective(headers: Sequence[Dataset]) -> Resource:
    """The day of the study as its de-identified header has it."""
    day = next((str(header.StudyDate) for header in headers if header.get("StudyDate")), "")
    return {"effectiveDateTime": f"{day[:4]}-{day[4:6]}-{day[6:]}"} if len(day) == 8 else {}


def _value(statement: Statement) -> Resource:
    if isinstance(statement.value, int):
        quantity = {"value": statement.value, "unit": "mm", "system": _UNITS, "code": "mm"}
        return {"valueQuantity": quantity}
    if statement.value == NOT_ASSESSED:
        return {"dataAbsentReason": _concept(_NOT_PERFORMED)}
    return {"valueCodeableConcept": _coded(statement.concept)}


def _coded(concept: Concept) -> Resource:
    return _concept((_SYSTEMS[concept.scheme], concept.value, concept.meaning))


def _concept(code: tuple[str, str, str]) -> Resource:
    return {"coding": [_coding(code)], "text": code[2]}


def _coding(code: tuple[str, str, str]) -> Resource:
    system, value, display = code
    return {"system": system, "code": value, "display": display}
