"""Units of an archive written to another place, whatever they lie in."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest
from pydantic import SecretStr
from tests.dicom_files import picture
from tests.platform.export.made import KEY, full_ultrasound, result

from sonoloop.platform.archive.archived import ArchivedInstances
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.quarantine import Release
from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.reading.pixels import quiet
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.export.config import ExportConfig, ExportFormat
from sonoloop.platform.export.exporter import Exporter, ReportWork
from sonoloop.platform.export.output import writing
from sonoloop.platform.workspace import S3Config, Store

if TYPE_CHECKING:
    from tests.conftest import S3Stack

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def archive(tmp_path: Path) -> Store:
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "cine.dcm").write_bytes(full_ultrasound(3, instance="0"))
    (folder / "picture.png").write_bytes(picture())
    with zipfile.ZipFile(folder / "study.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("still.dcm", full_ultrasound(instance="1"))
    return Store(str(folder))


@pytest.fixture
def rows(archive: Store) -> dict[str, InstanceRecord]:
    return _rows(archive)


def _rows(archive: Store) -> dict[str, InstanceRecord]:
    """Rows of the archive's instances by the end of their name."""
    reader = HeaderReader(ArchiveReader(archive, IndexConfig()), KEY, NOW)
    found = [row for info in archive.list_objects() for row in reader.read(info)]
    return {row.uri.rpartition("/")[2]: row for row in found if row.status == "indexed"}


def _exporter(archive: Store, out: Path, key: SecretStr = KEY) -> Exporter:
    archived = ArchivedInstances(archive, IndexConfig(), key)
    return Exporter(archived, Store(str(out)), ExportConfig(), DeidentifyConfig(), "en", {})


def test_instances_are_written_below_their_study_out_of_a_zip_too(
    archive: Store, rows: dict[str, InstanceRecord], tmp_path: Path
) -> None:
    exporter = _exporter(archive, tmp_path / "out")
    for name in ("cine.dcm", "still.dcm"):
        exporter.write_instance(rows[name])
    files = sorted((tmp_path / "out").rglob("*"))
    written = [pydicom.dcmread(path) for path in files if path.is_file()]
    assert [(d.StudyInstanceUID, f"{d.SOPInstanceUID}.dcm") for d in written] == [
        (path.parent.name, path.name) for path in files if path.is_file()
    ]
    assert sorted(int(d.get("NumberOfFrames") or 1) for d in written) == [1, 3]


def test_a_report_refers_to_the_instances_as_they_are_exported(
    archive: Store, rows: dict[str, InstanceRecord], tmp_path: Path
) -> None:
    exporter = _exporter(archive, tmp_path / "out")
    work = ReportWork(result=result(), instances=(rows["cine.dcm"], rows["still.dcm"]))
    for row in work.instances:
        exporter.write_instance(row)
    for kind in (ExportFormat.SR, ExportFormat.FHIR):
        exporter.write_report(work, kind)
    case_id = work.result.case.case_id
    report = pydicom.dcmread(tmp_path / "out" / "sr" / f"{case_id}.dcm")
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    referred = {item.ReferencedSOPInstanceUID for part in series for item in part.ReferencedSOPSequence}
    assert referred == {path.stem for path in (tmp_path / "out" / "dicom").rglob("*.dcm")}
    bundle = json.loads((tmp_path / "out" / "fhir" / f"{case_id}.json").read_text())
    assert "ImagingStudy" in {entry["resource"]["resourceType"] for entry in bundle["entry"]}


@pytest.mark.parametrize("text", ["Frau Zimmermann, links", "PID-471108", "geb. 19490517"])
def test_a_text_that_holds_an_identifier_of_the_header_is_not_exported(
    text: str, archive: Store, rows: dict[str, InstanceRecord], tmp_path: Path
) -> None:
    work = ReportWork(result=result(findings=text), instances=(rows["cine.dcm"],))
    with pytest.raises(RejectedError) as err:
        _exporter(archive, tmp_path / "out").write_report(work, ExportFormat.FHIR)
    assert err.value.reason == Reason.PHI_SUSPECTED
    assert text not in str(err.value)
    assert not (tmp_path / "out").exists()


def test_a_case_of_pictures_has_a_bundle_but_no_structured_report(
    archive: Store, rows: dict[str, InstanceRecord], tmp_path: Path
) -> None:
    exporter = _exporter(archive, tmp_path / "out")
    work = ReportWork(result=result(num_images=1), instances=(rows["picture.png"],))
    exporter.write_report(work, ExportFormat.FHIR)
    with pytest.raises(RejectedError) as err:
        exporter.write_report(work, ExportFormat.SR)
    assert err.value.reason == Reason.NOT_DICOM


@pytest.mark.parametrize(
    ("kind", "header", "kept"),
    [
        (ExportFormat.SR, {"PatientSex": "WEIBL"}, {"retain_patient_characteristics": True}),
        (ExportFormat.FHIR, {"StudyDate": "20191399"}, {"dates": "keep"}),
    ],
)
def test_a_header_whose_values_fit_no_report_is_refused_and_not_quoted(
    archive: Store, tmp_path: Path, kind: ExportFormat, header: dict[str, str], kept: dict[str, object]
) -> None:
    with quiet():
        (Path(archive.root) / "odd.dcm").write_bytes(full_ultrasound(instance="6", **header))
    work = ReportWork(result=result(num_images=1), instances=(_rows(archive)["odd.dcm"],))
    exporter = replace(_exporter(archive, tmp_path / "out"), config=ExportConfig(confidentiality=kept))
    with pytest.raises(RejectedError) as err:
        exporter.write_report(work, kind)
    assert err.value.reason == Reason.UNREADABLE
    assert not any(value in str(err.value) for value in header.values())


def test_an_object_under_another_key_or_with_another_content_is_refused(
    archive: Store, rows: dict[str, InstanceRecord], tmp_path: Path
) -> None:
    other_key = _exporter(archive, tmp_path / "out", SecretStr("another key, long enough"))
    with pytest.raises(RejectedError, match="pseudonym key"):
        other_key.write_instance(rows["cine.dcm"])
    (Path(archive.root) / "cine.dcm").write_bytes(full_ultrasound(instance="7"))
    with pytest.raises(RejectedError):
        _exporter(archive, tmp_path / "out").write_instance(rows["cine.dcm"])
    assert not list(tmp_path.rglob("out/**/*.dcm"))


def test_what_waits_in_quarantine_is_exported_once_its_very_version_is_released(
    archive: Store, tmp_path: Path
) -> None:
    unclean = full_ultrasound(regions=(), BurnedInAnnotation="YES", instance="5")
    (Path(archive.root) / "unclean.dcm").write_bytes(unclean)
    row = _rows(archive)["unclean.dcm"]
    exporter = _exporter(archive, tmp_path / "out")
    seen = Release(instance_id=row.instance_id, etag=row.etag, by="p", rules_version="2", at=NOW)
    for release in (None, seen.model_copy(update={"etag": "another version"})):
        unreleased = replace(exporter, releases={} if release is None else {row.instance_id: release})
        with pytest.raises(RejectedError) as err:
            unreleased.write_instance(row)
        assert err.value.reason == Reason.PHI_SUSPECTED
    replace(exporter, releases={row.instance_id: seen}).write_instance(row)
    assert len(list(tmp_path.rglob("out/**/*.dcm"))) == 1


def test_a_file_that_failed_halfway_leaves_nothing(tmp_path: Path) -> None:
    out = Store(str(tmp_path / "out"))
    with pytest.raises(RuntimeError):
        _write_half(out)
    assert not (tmp_path / "out").exists()
    with writing(out, "dicom", "x.dcm") as file:
        file.write(b"whole")
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"whole"]


def test_on_s3_too_a_file_is_whole_or_not_there(stack_s3: S3Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    out = Store(f"s3://{stack_s3.bucket()}/out", S3Config(endpoint_url=stack_s3.endpoint))
    with pytest.raises(RuntimeError):
        _write_half(out)
    assert list(out.list_objects()) == []
    with writing(out, "dicom", "x.dcm") as file:
        file.write(b"whole")
    assert out.read_bytes("dicom", "x.dcm") == b"whole"


def _write_half(out: Store) -> None:
    with writing(out, "dicom", "x.dcm") as file:
        file.write(b"half")
        raise RuntimeError
