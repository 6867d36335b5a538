"""``sonoloop export`` on a small indexed workspace on S3: counts, names, drafts and reviews told apart."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from tests.dicom_files import IDENTIFIERS, picture
from tests.platform.export.made import BREAST, KEY, full_ultrasound

from sonoloop.jobs.config import Config
from sonoloop.jobs.export import run_export
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform import registry
from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.export.config import ExportFormat
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord, ReviewRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.sorted_rooms import CASES, INSTANCES, write_sorted
from sonoloop.platform.workspace import S3Config, Store

if TYPE_CHECKING:
    from tests.conftest import S3Stack

NOW = datetime(2026, 1, 5, tzinfo=UTC)
MODEL = "echovlm-nano/1"
STUDIES = {"a": "1.2.3.1", "b": "1.2.3.2", "c": "1.2.3.3"}


@pytest.fixture
def config(stack_s3: S3Stack, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four cases: a reviewed, b drafted, c neither and unclean, a picture that was drafted."""
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SONOLOOP_PSEUDONYM_KEY", KEY.get_secret_value())
    bucket = stack_s3.bucket()
    config = Config(
        workspace=f"s3://{bucket}/workspace",
        archive=f"s3://{bucket}/archive",
        s3=S3Config(endpoint_url=stack_s3.endpoint),
    )
    workspace, archive = (Store(uri, config.s3) for uri in (config.workspace, config.archive))
    archive.write_bytes(full_ultrasound(2, study=STUDIES["a"]), "a.dcm")
    archive.write_bytes(full_ultrasound(2, study=STUDIES["a"]), "copy-of-a.dcm")
    archive.write_bytes(full_ultrasound(study=STUDIES["b"]), "b.dcm")
    archive.write_bytes(full_ultrasound(study=STUDIES["c"], regions=(), BurnedInAnnotation="YES"), "c.dcm")
    archive.write_bytes(picture(), "d", "1.png")
    _fill(workspace, archive, config)
    return config


def _fill(workspace: Store, archive: Store, config: Config) -> None:
    reader = HeaderReader(ArchiveReader(archive, config.index), KEY, NOW)
    rows = [row for info in archive.list_objects() for row in reader.read(info)]
    write_sorted(workspace, INSTANCES, rows, "run", "0.parquet")
    by_name = {row.uri.rpartition("/")[2]: row for row in rows}
    cases = {name: _case(by_name[file]) for name, file in _FILES.items()}
    write_sorted(workspace, CASES, list(cases.values()), "run", "0.parquet")
    for name in cases:
        workspace.write_bytes(picture(), "images", "ab", f"{name}.png")
    drafts = [_draft(cases[name]) for name in ("a", "b", "d")]
    workspace.write_table(DraftRecord.table(drafts), "drafts", "run", "0.parquet")
    workspace.write_table(ReviewRecord.table([_review(cases["a"])]), "reviews", "0.parquet")
    registry.set_aliases(workspace, config.model.name, {"champion": MODEL}, expected=Aliases())


_FILES = {"a": "a.dcm", "b": "b.dcm", "c": "c.dcm", "d": "1.png"}


def _case(row: InstanceRecord) -> CaseRecord:
    name = row.uri.rpartition("/")[2].partition(".")[0].replace("1", "d")
    image = CaseImage(
        image_key=f"images/ab/{name}.png",
        instance_id=row.instance_id,
        frame_index=0,
        width=128,
        height=96,
    )
    assert row.case_id is not None
    assert row.patient_key is not None
    return CaseRecord(
        case_id=row.case_id,
        patient_key=row.patient_key,
        organ_hint="breast",
        scanner=None,
        images=(image,),
        indexed_at=NOW,
    )


def _draft(case: CaseRecord) -> DraftRecord:
    return DraftRecord(
        case_id=case.case_id,
        run_id="run",
        model_version=MODEL,
        prompt_version=PROMPT_VERSION,
        config_hash="h",
        status="draft",
        findings="drafted",
        impression="i",
        entities=json.dumps(BREAST),
    )


def _review(case: CaseRecord) -> ReviewRecord:
    return ReviewRecord(
        review_id="r",
        annotation_id=1,
        task_id=1,
        case_id=case.case_id,
        model_version=MODEL,
        reader="reader",
        findings="reviewed",
        impression="i",
        entities=json.dumps(BREAST),
        boxes=(),
        origins={},
        lead_time_s=None,
        created_at=NOW,
        updated_at=NOW,
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _rejected(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / kind / "rejected.jsonl").read_text().splitlines()]


@pytest.mark.ray
def test_every_format_counts_its_units_and_writes_the_same_files_again(
    config: Config, tmp_path: Path
) -> None:
    expected = {
        ExportFormat.DICOM: (4, {"cleaned": 2}, {"phi-suspected": 1, "not-dicom": 1}),
        ExportFormat.SR: (4, {"reviewed": 1, "draft": 1}, {"no-result": 1, "not-dicom": 1}),
        ExportFormat.FHIR: (4, {"reviewed": 1, "draft": 2}, {"no-result": 1}),
        ExportFormat.COCO: (4, {"reviewed": 1, "draft": 2}, {"no-result": 1}),
        ExportFormat.JSONL: (4, {"reviewed": 1, "draft": 2}, {"no-result": 1}),
    }
    for kind, (units, written, rejected) in expected.items():
        summary = run_export(config, kind, str(tmp_path))
        assert summary.units == units == summary.written + summary.rejected, kind
        assert (summary.written_by_status, summary.rejected_by_reason) == (written, rejected), kind
        assert {line["reason"] for line in _rejected(tmp_path, kind)} == set(rejected)
    before = _files(tmp_path)
    for kind in expected:
        run_export(config, kind, str(tmp_path))
    assert _files(tmp_path) == before
    everything = b"".join(before.values()) + " ".join(before).encode()
    assert not [text for text in IDENTIFIERS if text.encode() in everything]


@pytest.mark.ray
def test_drafts_are_left_out_or_called_drafts(config: Config, tmp_path: Path) -> None:
    run_export(config, ExportFormat.SR, str(tmp_path / "all"))
    flags = [pydicom.dcmread(path).VerificationFlag for path in (tmp_path / "all" / "sr").glob("*.dcm")]
    assert sorted(flags) == ["UNVERIFIED", "VERIFIED"]
    for kind in (ExportFormat.SR, ExportFormat.JSONL, ExportFormat.DICOM):
        summary = run_export(config, kind, str(tmp_path / "reviewed"), reviewed_only=True)
        assert summary.written == 1, kind
    reasons = [line["reason"] for line in _rejected(tmp_path / "reviewed", "jsonl")]
    assert sorted(reasons) == ["no-result", "not-reviewed", "not-reviewed"]
    (line,) = (tmp_path / "reviewed" / "jsonl" / "cases.jsonl").read_text().splitlines()
    assert json.loads(line)["findings"] == "reviewed"


@pytest.mark.ray
def test_a_file_of_case_ids_chooses_and_s3_is_written_to(
    config: Config, stack_s3: S3Stack, tmp_path: Path
) -> None:
    workspace = Store(config.workspace, config.s3)
    chosen = next(iter(_cases(workspace).values()))
    listed = tmp_path / "cases.txt"
    listed.write_text(f"{chosen.case_id}\n\n{chosen.case_id}\n")
    target = f"s3://{stack_s3.bucket()}/export"
    summary = run_export(config, ExportFormat.JSONL, target, case_file=listed)
    assert summary.units == 1
    assert Store(target, config.s3).exists("jsonl", "cases.jsonl")
    listed.write_text("no-such-case")
    with pytest.raises(ConfigError, match="1 are no case"):
        run_export(config, ExportFormat.JSONL, target, case_file=listed)


def _cases(workspace: Store) -> dict[str, CaseRecord]:
    table = workspace.read_tables(CaseRecord.ARROW, "cases")
    return {row["case_id"]: CaseRecord.from_row(row) for row in table.to_pylist()}


@pytest.mark.ray
def test_an_empty_workspace_a_target_in_the_archive_and_no_result_are_refused(
    config: Config, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="archive"):
        run_export(config, ExportFormat.JSONL, f"{config.archive}/export")
    other = config.model_copy(update={"workspace": config.workspace.replace("/workspace", "/other")})
    with pytest.raises(NothingToDoError, match="no case"):
        run_export(other, ExportFormat.JSONL, str(tmp_path))
    unreviewed = [case.case_id for case in _cases(Store(config.workspace, config.s3)).values()]
    listed = tmp_path / "cases.txt"
    reviewed = json.loads(_lines(config, tmp_path)[0])["case_id"]
    listed.write_text("\n".join(case_id for case_id in unreviewed if case_id != reviewed))
    with pytest.raises(NothingToDoError, match="not-reviewed"):
        run_export(config, ExportFormat.JSONL, str(tmp_path), case_file=listed, reviewed_only=True)


def _lines(config: Config, folder: Path) -> list[str]:
    run_export(config, ExportFormat.JSONL, str(folder), reviewed_only=True)
    return (folder / "jsonl" / "cases.jsonl").read_text().splitlines()


@pytest.mark.parametrize("package", ["highdicom", "fhir"])
def test_without_the_packages_of_exports_the_verb_says_what_is_missing(package: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from sonoloop.jobs.cli import main; main()"
    command = [sys.executable, "-c", program, "export", "--format", "jsonl", "--out", "x"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == ConfigError.exit_code
    assert f"needs the package {package}" in done.stderr
