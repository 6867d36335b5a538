"""``sonoloop index`` over real archives in a folder and on S3."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from dicom_files import IDENTIFIERS, STUDY, real_file, speckle, ultrasound
from fault_proxy import Fault, proxy_before

from sonoloop.jobs.config import Config
from sonoloop.jobs.index import run_index
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import NothingToDoError, Reason, StorageError
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.tables import read_cases, read_frames, read_instances
from sonoloop.platform.workspace import S3Config, Store

if TYPE_CHECKING:
    from conftest import S3Stack

KEY = "0123456789abcdef-of-the-tests"
TRUSTING = DeidentifyConfig(pictures_are_clean=True)
GOOD = {
    "1/1": ultrasound(speckle(1)),
    "1/2": ultrasound(speckle(2, frames=6), frames=6, instance="2"),
    "1/1-again": ultrasound(speckle(1)),
    "2/1": ultrasound(speckle(3), study=f"{STUDY}.9", PatientID="PID-2"),
    "real": real_file("examples_ybr_color.dcm"),
}
BAD = {
    "bad/zero.dcm": (b"", Reason.EMPTY_OBJECT),
    "bad/text.dcm": (b"a text, named like an image\n", Reason.NOT_AN_IMAGE),
    "bad/cut.dcm": (ultrasound(speckle(2), instance="cut")[:-9000], Reason.TRUNCATED),
    "bad/ct.dcm": (real_file("CT_small.dcm"), Reason.NOT_ULTRASOUND),
    "bad/huge.dcm": (
        ultrasound(speckle(), Rows=65535, Columns=65535, NumberOfFrames=10000),
        Reason.TOO_LARGE,
    ),
    "bad/burned-in.dcm": (
        ultrasound(speckle(1), instance="burned-in", regions=(), BurnedInAnnotation="YES"),
        Reason.PHI_SUSPECTED,
    ),
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    (tmp_path / "archive").mkdir()
    (tmp_path / "workspace").mkdir()
    return Config(
        workspace=str(tmp_path / "workspace"),
        archive=str(tmp_path / "archive"),
        index=IndexConfig(deidentify=TRUSTING),
    )


def with_index(config: Config, **settings: Any) -> Config:
    return config.model_copy(update={"index": IndexConfig(**{"deidentify": TRUSTING, **settings})})


def fill(config: Config, objects: dict[str, bytes]) -> None:
    archive = Store(config.archive, config.s3)
    for name, data in objects.items():
        archive.write_bytes(data, name)


def tables(config: Config) -> tuple[list[InstanceRecord], list[object]]:
    workspace = Store(config.workspace, config.s3)
    return read_instances(workspace), list(read_cases(workspace))


@pytest.mark.usefixtures("ray_cluster")
class TestOnRay:
    def test_good_objects_become_cases_and_each_bad_one_a_rejection_with_its_reason(
        self, config: Config
    ) -> None:
        fill(config, {**GOOD, **{name: data for name, (data, _) in BAD.items()}})
        summary = run_index(with_index(config, deidentify=DeidentifyConfig()))
        assert (summary.objects, summary.unchanged) == (len(GOOD) + len(BAD), 0)
        assert (summary.indexed, summary.rejected) == (len(GOOD), len(BAD))
        rows, cases = tables(config)
        root = Store(config.archive).root
        pixels = {frame.instance_id: frame.reason for frame in read_frames(Store(config.workspace))}
        reasons = {
            row.uri.removeprefix(f"{root}/"): row.reason or pixels.get(row.instance_id) for row in rows
        }
        assert reasons == dict.fromkeys(GOOD) | {name: reason for name, (_, reason) in BAD.items()}
        assert all(row.detail for row in rows if row.status == "rejected")
        assert sum(summary.rejected_by_reason.values()) == summary.rejected
        # the study in three objects, one of them stored twice, is one case of three images
        assert sorted(len(case.images) for case in read_cases(Store(config.workspace))) == [1, 2, 3]
        assert summary.cases == len(cases) == 3

    def test_nothing_of_a_header_is_anywhere_in_the_workspace(self, config: Config) -> None:
        fill(config, GOOD)
        run_index(config)
        found = []
        for path in Path(config.workspace).rglob("*"):
            if not path.is_file():
                continue
            text = path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                text += str(table.drop_columns([n for n in ("uri",) if n in table.column_names]).to_pylist())
            found += [(word, path.name) for word in (*IDENTIFIERS, KEY) if word in text]
        assert found == []

    def test_a_second_run_reads_nothing_and_changes_nothing(self, config: Config) -> None:
        fill(config, {**GOOD, "bad/zero.dcm": b""})
        first = run_index(config)
        before = tables(config)
        files = {path: path.stat().st_mtime_ns for path in Path(config.workspace).rglob("*")}
        second = run_index(config)
        assert (second.unchanged, second.indexed, second.rejected) == (first.objects, 0, 0)
        assert (second.cases, second.images) == (first.cases, first.images)
        assert tables(config) == before
        assert {path: path.stat().st_mtime_ns for path in Path(config.workspace).rglob("*")} == files

    def test_a_changed_object_is_read_again_and_moves_between_cases(self, config: Config) -> None:
        fill(config, {"a": GOOD["1/1"], "b": GOOD["1/2"]})
        run_index(config)
        (case,) = read_cases(Store(config.workspace))
        fill(config, {"a": ultrasound(speckle(7), study=f"{STUDY}.7", PatientID="PID-7")})
        summary = run_index(config)
        assert (summary.unchanged, summary.indexed) == (1, 1)
        now = {c.case_id: c for c in read_cases(Store(config.workspace))}
        assert len(now) == 2
        assert len(now[case.case_id].images) == len(case.images) - 1

    def test_an_object_added_to_a_study_joins_its_case(self, config: Config) -> None:
        fill(config, {"a": GOOD["1/1"]})
        run_index(config)
        fill(config, {"b": GOOD["1/2"]})
        assert run_index(config).cases == 1
        (case,) = read_cases(Store(config.workspace))
        assert len(case.images) == 3

    @pytest.mark.parametrize("room", ["instances", "frames", "cases"])
    def test_a_run_that_died_before_it_wrote_a_room_is_finished_by_the_next(
        self, config: Config, room: str
    ) -> None:
        fill(config, GOOD)
        Path(config.workspace, room).write_text("a file where the folder should be")
        with pytest.raises(StorageError):
            run_index(config)
        Path(config.workspace, room).unlink()
        assert run_index(config).cases == 3
        images = [image for case in read_cases(Store(config.workspace)) for image in case.images]
        assert len(images) == len(read_frames(Store(config.workspace))) == 6
        assert run_index(config).cases_made == 0

    def test_declaring_the_archive_clean_reads_the_suspected_ones_again(self, config: Config) -> None:
        doubtful = ultrasound(speckle(1), regions=(), BurnedInAnnotation="YES")
        fill(config, {"1": doubtful, "zero": b""})
        with pytest.raises(NothingToDoError, match="phi-suspected"):
            run_index(with_index(config, deidentify=DeidentifyConfig()))
        summary = run_index(config)
        assert (summary.unchanged, summary.cases_made, summary.cases) == (2, 1, 1)

    def test_only_a_replay_takes_what_was_rejected_for_the_moment_and_it_takes_just_that(
        self, config: Config
    ) -> None:
        fill(config, {"a": GOOD["1/1"], "b": GOOD["2/1"], "zero": b""})
        hidden = Path(config.archive, "b")
        data = hidden.read_bytes()
        hidden.unlink()
        hidden.mkdir()  # listed as a file a moment ago
        listing = Path(config.workspace).parent / "listing.csv"
        listing.write_text("key\na\nb\nzero\n")
        manifest = with_index(config, manifest=str(listing))
        first = run_index(manifest)
        assert (first.indexed, first.rejected_by_reason) == (1, {"storage": 1, "empty-object": 1})
        hidden.rmdir()
        hidden.write_bytes(data)
        assert run_index(manifest).unchanged == 3
        again = run_index(config, retry_rejected=True)
        assert (again.objects, again.indexed, again.rejected, again.cases) == (1, 1, 0, 2)
        assert run_index(config, retry_rejected=True).objects == 0

    def test_headers_alone_leave_the_frames_to_the_next_run(self, config: Config) -> None:
        fill(config, GOOD)
        headers = run_index(config, headers_only=True)
        assert (headers.indexed, headers.cases) == (len(GOOD), 0)
        assert not list(Path(config.workspace, "images").glob("*"))
        whole = run_index(config)
        assert (whole.unchanged, whole.cases_made, whole.cases) == (len(GOOD), 3, 3)

    def test_an_object_that_is_deleted_leaves_its_case_and_a_case_without_any_is_withdrawn(
        self, config: Config
    ) -> None:
        fill(config, GOOD)
        run_index(config)
        for name in ("1/2", "2/1"):
            Path(config.archive, name).unlink()
        summary = run_index(config)
        assert (summary.gone, summary.unchanged, summary.cases) == (2, 3, 2)
        assert sorted(len(case.images) for case in read_cases(Store(config.workspace))) == [1, 2]
        assert len(read_instances(Store(config.workspace))) == 3
        fill(config, {"2/1": GOOD["2/1"]})
        assert (run_index(config).indexed, run_index(config).cases) == (1, 3)

    def test_other_rules_for_frames_make_the_cases_again_and_read_no_header(self, config: Config) -> None:
        fill(config, GOOD)
        run_index(config)
        summary = run_index(with_index(config, key_frames=1))
        assert (summary.unchanged, summary.requests, summary.cases_made) == (len(GOOD), 0, 3)
        assert sorted(len(case.images) for case in read_cases(Store(config.workspace))) == [1, 1, 2]
        assert len(read_frames(Store(config.workspace))) == 4

    def test_members_of_a_zip_are_objects_and_a_new_version_of_it_replaces_them(self, config: Config) -> None:
        fill(config, {"a.zip": zipped({"x/1": GOOD["1/1"], "x/2": GOOD["2/1"], "notes.txt": b"some text"})})
        first = run_index(config)
        assert (first.objects, first.containers, first.members) == (1, 1, 3)
        assert (first.indexed, first.rejected_by_reason, first.cases) == (2, {"not-an-image": 1}, 2)
        assert run_index(config).unchanged == 1
        fill(config, {"a.zip": zipped({"x/1": GOOD["1/1"]})})
        second = run_index(config)
        assert (second.gone, second.indexed, second.cases) == (2, 1, 1)
        Path(config.archive, "a.zip").unlink()
        fill(config, {"b": GOOD["real"]})
        assert run_index(config).gone == 2

    def test_an_instance_whose_pixels_are_rejected_leaves_its_share_to_the_rest_of_the_study(
        self, config: Config
    ) -> None:
        loop = ultrasound(speckle(2, frames=6), frames=6, instance="2")
        doubtful = ultrasound(speckle(1), instance="1", regions=(), BurnedInAnnotation="YES")
        fill(config, {"1": doubtful, "2": loop})
        summary = run_index(with_index(config, max_images=2, deidentify=DeidentifyConfig()))
        assert (summary.indexed, summary.rejected_by_reason) == (1, {"phi-suspected": 1})
        frames = read_frames(Store(config.workspace))
        assert Counter(frame.status for frame in frames) == {"written": 2, "rejected": 1}
        (case,) = read_cases(Store(config.workspace))
        assert [image.image_key for image in case.images] == [f.image_key for f in frames if f.image_key]

    def test_an_archive_without_a_readable_object_says_so_and_keeps_the_reasons(self, config: Config) -> None:
        bad = {name: data for name, (data, reason) in BAD.items() if reason != Reason.PHI_SUSPECTED}
        fill(config, bad)
        with pytest.raises(NothingToDoError, match="not-ultrasound"):
            run_index(config)
        rows, cases = tables(config)
        assert (len(rows), cases) == (len(bad), [])

    def test_a_workspace_that_refuses_images_fails_the_run_with_a_storage_error(self, config: Config) -> None:
        fill(config, GOOD)
        (Path(config.workspace) / "images").write_text("a file where the folder should be")
        with pytest.raises(StorageError) as caught:
            run_index(config)
        assert "\n" not in str(caught.value)
        assert not (Path(config.workspace) / "cases").exists()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.usefixtures("ray_cluster")
def test_an_empty_archive_is_nothing_to_do_and_writes_nothing(config: Config) -> None:
    with pytest.raises(NothingToDoError, match="holds no object"):
        run_index(config)
    assert list(Path(config.workspace).iterdir()) == []


def test_on_s3_the_command_answers_in_json_and_the_second_run_finds_nothing_new(
    stack_s3: S3Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = stack_s3.bucket()
    config = Config(workspace=f"s3://{bucket}/workspace", archive=f"s3://{bucket}/archive")
    fill(config, {"1": GOOD["1/1"], "2": GOOD["2/1"], "zero.dcm": b""})
    path = tmp_path / "s.toml"
    path.write_text(f'workspace = "{config.workspace}"\narchive = "{config.archive}"\n[ray]\nnum_cpus = 3\n')
    environment = {**os.environ, **stack_s3.env, KEY_VARIABLE: KEY, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)

    command = [sys.executable, "-m", "sonoloop.jobs.cli", "index", "--json", "--config", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [s for s in (stack_s3.env["AWS_SECRET_ACCESS_KEY"], KEY) if s in done.stdout + done.stderr] == []
    first = json.loads(done.stdout)
    assert (first["indexed"], first["rejected_by_reason"]) == (2, {"empty-object": 1})
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    second = run_index(config)
    assert (second.unchanged, second.indexed, second.rejected) == (3, 0, 0)
    workspace = Store(config.workspace)
    stored = [workspace.read_path(info.uri.removeprefix("s3://")) for info in workspace.list_objects()]
    assert not [word for word in IDENTIFIERS if any(word.encode() in data for data in stored)]


@pytest.mark.usefixtures("ray_cluster")
def test_faults_of_a_real_s3_end_as_rejections_that_a_replay_heals(
    stack_s3: S3Stack, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    archive = f"s3://{stack_s3.bucket()}/archive"
    config = with_index(config, tries=2).model_copy(update={"archive": archive})
    fill(config, {**GOOD, "denied": ultrasound(speckle(5), instance="denied")})
    with proxy_before(stack_s3.endpoint) as proxy:
        failing = config.model_copy(update={"s3": S3Config(endpoint_url=proxy.endpoint)})
        faults = {
            "archive/denied": Fault(403, "AccessDenied"),
            "archive/1/1": Fault(503, "SlowDown"),
            "archive/1/2": Fault(cut_after=100),
        }
        proxy.fails = lambda key, _: faults.get(key)
        first = run_index(failing)
        assert (first.indexed, first.rejected_by_reason) == (3, {"storage": 3})
        assert run_index(failing).unchanged == 6
        del faults["archive/1/1"], faults["archive/1/2"]
        asked = proxy.asked["archive/real"]
        second = run_index(failing, retry_rejected=True)
        assert (second.objects, second.indexed, second.rejected) == (3, 2, 1)
        assert proxy.asked["archive/real"] == asked
        assert len(read_instances(Store(config.workspace))) == len(GOOD) + 1
        proxy.fails = lambda key, _: Fault(400, "ExpiredToken") if key.startswith("archive/new") else None
        fill(config, {f"new/{n}": GOOD["1/1"] for n in range(40)})
        with pytest.raises(StorageError, match="access refused"):
            run_index(failing)
        assert len(read_instances(Store(config.workspace))) == len(GOOD) + 1
        proxy.fails = lambda *_: None
        assert run_index(failing).indexed == 40
