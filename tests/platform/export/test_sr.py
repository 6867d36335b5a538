"""The structured report, read back by highdicom, by a plain walk, and by David Clunie's dicom3tools."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage
from tests.dicom_files import IDENTIFIERS
from tests.platform.export.made import KEY, clean_headers, every_entities, result

from sonoloop.platform.export.results import Result
from sonoloop.platform.export.sr import structured_report
from sonoloop.platform.lexicon import ORGANS, Organ, entities_json

HEADERS = clean_headers()


def _report(made: Result) -> Dataset:
    return pydicom.dcmread(io.BytesIO(structured_report(made, HEADERS, KEY)))


def _tool(name: str, dataset: Dataset, folder: Path) -> str:
    path = folder / "report.dcm"
    dataset.save_as(path)
    done = subprocess.run(
        [str(Path(sys.executable).parent / name), str(path)], capture_output=True, check=False, text=True
    )
    return done.stdout + done.stderr


def _walk(item: Dataset, depth: int = 0) -> Iterator[tuple[int, str, str, Any]]:
    """(depth, value type, code of the concept name, value) of a content tree, by pydicom alone."""
    for child in item.get("ContentSequence", []):
        name = child.ConceptNameCodeSequence[0].get("CodeValue") if "ConceptNameCodeSequence" in child else ""
        yield depth, child.ValueType, str(name), _value(child)
        yield from _walk(child, depth + 1)


def _value(item: Dataset) -> Any:
    if item.ValueType == "CODE":
        code = item.ConceptCodeSequence[0]
        return code.get("CodeValue") or code.LongCodeValue
    if item.ValueType == "NUM":
        return float(item.MeasuredValueSequence[0].NumericValue)
    return item.get("TextValue") or item.get("GraphicData")


def test_highdicom_reads_the_measurements_the_site_and_the_region_back() -> None:
    report = sr.ComprehensiveSR.from_dataset(_report(result()))
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == 2
    first = groups[0]
    sizes = {m.name.meaning: (m.value, m.unit.value) for m in first.get_measurements()}
    assert sizes == {"Long Axis": (12.0, "mm"), "Distance from nipple": (20.0, "mm")}
    (site,) = first.finding_sites
    assert (site.value.value, site.laterality.value) == ("76752008", "7771000")
    assert groups[0].tracking_uid == groups[1].tracking_uid
    assert first.roi.value.tolist() == [[16, 24], [80, 24], [80, 48], [16, 48], [16, 24]]


def test_a_region_refers_to_the_exported_instance_and_counts_frames_from_one() -> None:
    images = [
        (str(image.ReferencedSOPInstanceUID), image.get("ReferencedFrameNumber"))
        for image in _references(_report(result()))
    ]
    cine, still = (str(header.SOPInstanceUID) for header in HEADERS.values())
    assert images == [(cine, 3), (still, None)] * 2  # as images seen, and as sources of the regions


def _references(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        if child.ValueType == "IMAGE":
            yield child.ReferencedSOPSequence[0]
        yield from _references(child)


def test_a_plain_walk_finds_the_rows_of_the_root_template() -> None:
    report = _report(result())
    assert report.SOPClassUID == ComprehensiveSRStorage
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    rows = list(_walk(report))
    top = [(kind, code) for depth, kind, code, _ in rows if depth == 0]
    assert top.count(("CODE", "121005")) == 2  # observer type: the person and the device
    assert ("CODE", "121058") in top  # procedure reported
    assert ("CONTAINER", "126010") in top  # imaging measurements
    texts = {code: value for _, kind, code, value in rows if kind == "TEXT"}
    assert texts["121070"] == "Ovale Läsion links bei 3 Uhr."
    assert texts["121073"] == "BI-RADS 3."
    codes = {code: value for _, kind, code, value in rows if kind == "CODE"}
    assert codes["111354"] == "111355"
    assert codes["111005"] == "bi-rads.3"


def test_a_review_is_verified_by_a_pseudonym_and_a_draft_is_not_verified() -> None:
    reviewed, draft = _report(result()), _report(result(reviewed=False))
    assert (reviewed.CompletionFlag, reviewed.PreliminaryFlag) == ("COMPLETE", "FINAL")
    assert reviewed.VerificationFlag == "VERIFIED"
    (observer,) = reviewed.VerifyingObserverSequence
    assert str(observer.VerifyingObserverName).rstrip("^") == "e" * 24
    assert str(observer.VerificationDateTime).startswith("20260201123000")
    assert (draft.CompletionFlag, draft.PreliminaryFlag) == ("PARTIAL", "PRELIMINARY")
    assert draft.VerificationFlag == "UNVERIFIED"
    assert "VerifyingObserverSequence" not in draft
    assert "not reviewed" in draft.SeriesDescription
    assert not [row for row in _walk(draft) if row[2] == "121008"]  # no person observed


def test_the_same_result_is_the_same_file_and_another_has_another_uid() -> None:
    assert structured_report(result(), HEADERS, KEY) == structured_report(result(), HEADERS, KEY)
    assert _report(result()).SOPInstanceUID != _report(result(findings="other")).SOPInstanceUID
    assert _report(result()).SeriesInstanceUID == _report(result(findings="other")).SeriesInstanceUID


def test_the_report_belongs_to_the_study_of_its_images_and_names_nobody() -> None:
    data = structured_report(result(), HEADERS, KEY)
    report = pydicom.dcmread(io.BytesIO(data))
    study = next(iter(HEADERS.values()))
    assert report.StudyInstanceUID == study.StudyInstanceUID
    assert report.PatientID == study.PatientID
    assert not [text for text in (*IDENTIFIERS, "Meier") if text.encode() in data]
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    listed = {
        str(item.ReferencedSOPInstanceUID) for series in evidence for item in series.ReferencedSOPSequence
    }
    assert listed == {str(header.SOPInstanceUID) for header in HEADERS.values()}


@pytest.mark.parametrize("organ", ORGANS)
def test_every_value_of_the_lexicon_makes_a_report_without_errors(organ: Organ, tmp_path: Path) -> None:
    for entities in every_entities(organ):
        report = _report(result(entities_json=entities_json(entities)))
        sr.ComprehensiveSR.from_dataset(report)
    assert "Error" not in _tool("dciodvfy", report, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": ()},
        {"entities_json": None},
        {"entities_json": None, "boxes": (), "findings": "only text"},
        {"entities_json": None, "boxes": (), "findings": "", "impression": ""},
        {"entities_json": '{"organ":"liver","parenchyma":"normal","lesion":"absent"}', "boxes": ()},
    ],
)
def test_results_with_less_in_them_are_reports_too(changes: dict[str, Any], tmp_path: Path) -> None:
    report = _report(result(**changes))
    sr.ComprehensiveSR.from_dataset(report)
    assert "Error" not in _tool("dciodvfy", report, tmp_path)


def test_another_reader_of_reports_shows_the_tree(tmp_path: Path) -> None:
    shown = _tool("dcsrdump", _report(result()), tmp_path)
    for line in (
        '(126000,DCM,"Imaging Measurement Report")',
        "(DCMR,1500)",
        '(103339001,SCT,"Long Axis")  = 12.0',
        '(363698007,SCT,"Finding Site")  = (76752008,SCT,"Breast")',
        "[Frame 3]",
        "Ovale Läsion links",
    ):
        assert line in shown
