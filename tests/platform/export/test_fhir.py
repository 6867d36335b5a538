"""The FHIR bundle, read back by the library that wrote it and by one with models of R4 4.0.1."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhirclient.models.bundle import Bundle as R4Bundle
from tests.dicom_files import IDENTIFIERS
from tests.platform.export.made import clean_headers, every_entities, result

from sonoloop.platform.export.fhir import bundle_json
from sonoloop.platform.export.results import Result
from sonoloop.platform.lexicon import ORGANS, Organ, entities_json

HEADERS = clean_headers()


def _resources(made: Result, *, with_headers: bool = True) -> dict[str, list[dict[str, Any]]]:
    text = bundle_json(made, HEADERS if with_headers else {})
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in json.loads(text)["entry"]:
        found.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    return found


def test_a_round_trip_changes_nothing() -> None:
    text = bundle_json(result(), HEADERS)
    assert json.loads(Bundle.model_validate_json(text).model_dump_json()) == json.loads(text)


@pytest.mark.parametrize("organ", ORGANS)
def test_every_value_of_the_lexicon_makes_a_bundle_that_a_reader_of_r4_takes(organ: Organ) -> None:
    for entities in every_entities(organ):
        text = bundle_json(result(entities_json=entities_json(entities)), HEADERS)
        bundle = R4Bundle(json.loads(text), strict=True)
        assert bundle.as_json() == json.loads(text)


def test_every_reference_points_into_the_bundle() -> None:
    text = bundle_json(result(), HEADERS)
    urls = [entry["fullUrl"] for entry in json.loads(text)["entry"]]
    assert len(urls) == len(set(urls))
    referred = set(_references(json.loads(text)))
    assert referred <= set(urls)
    assert len(referred) > 5


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["reference"]] if "reference" in value else []
        return own + [url for item in value.values() for url in _references(item)]
    return [url for item in value for url in _references(item)] if isinstance(value, list) else []


@pytest.mark.parametrize(("reviewed", "status"), [(True, "final"), (False, "preliminary")])
def test_a_review_is_final_and_a_draft_preliminary(reviewed: bool, status: str) -> None:
    found = _resources(result(reviewed=reviewed))
    (report,) = found["DiagnosticReport"]
    assert {report["status"], *(observation["status"] for observation in found["Observation"])} == {status}
    assert ("Practitioner" in found) == reviewed == ("resultsInterpreter" in report)


def test_the_lesion_is_one_observation_with_its_descriptors_as_components() -> None:
    found = _resources(result())["Observation"]
    (lesion,) = [observation for observation in found if observation["code"]["text"] == "Lesion"]
    assert lesion["valueCodeableConcept"]["coding"][0]["code"] == "52101004"
    assert lesion["bodySite"]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "76752008",
        "display": "Breast",
    }
    parts = {part["code"]["text"]: part for part in lesion["component"]}
    assert parts["Long Axis"]["valueQuantity"] == {
        "value": 12,
        "unit": "mm",
        "system": "http://unitsofmeasure.org",
        "code": "mm",
    }
    assert parts["Laterality"]["valueCodeableConcept"]["text"] == "Left"
    assert parts["calcifications"]["dataAbsentReason"]["coding"][0]["code"] == "not-performed"


def test_the_study_is_the_exported_one_and_its_day_the_shifted_one() -> None:
    found = _resources(result())
    header = next(iter(HEADERS.values()))
    (study,) = found["ImagingStudy"]
    assert study["identifier"][0]["value"] == f"urn:oid:{header.StudyInstanceUID}"
    uids = {instance["uid"] for series in study["series"] for instance in series["instance"]}
    assert uids == {str(header.SOPInstanceUID) for header in HEADERS.values()}
    (report,) = found["DiagnosticReport"]
    assert report["effectiveDateTime"].replace("-", "") == header.StudyDate != "20190105"
    assert report["conclusion"] == "BI-RADS 3."


def test_a_case_of_pictures_has_a_report_without_a_study() -> None:
    found = _resources(result(), with_headers=False)
    assert "ImagingStudy" not in found
    assert "imagingStudy" not in found["DiagnosticReport"][0]


def test_the_same_result_is_the_same_text_and_names_nobody() -> None:
    text = bundle_json(result(), HEADERS)
    assert text == bundle_json(result(), HEADERS)
    assert not [identifier for identifier in (*IDENTIFIERS, "Meier") if identifier in text]
