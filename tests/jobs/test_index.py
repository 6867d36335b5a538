"""``sonoloop index`` over real archives in a folder and on S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from dicom_files import COLUMNS, IDENTIFIERS, ROWS, STUDY, picture, real_file, speckle, ultrasound

from sonoloop.jobs.config import Config
from sonoloop.jobs.index import group_cases, run_index
from sonoloop.platform.archive.deidentify.clean import DeidentifyConfig
from sonoloop.platform.archive.index_object import IndexConfig
from sonoloop.platform.errors import NothingToDoError, Reason, StorageError
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.records import CaseImage, InstanceRecord
from sonoloop.platform.tables import read_cases, read_instances
from sonoloop.platform.workspace import Store

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
    "bad/cut.dcm": (GOOD["1/2"][:-9000], Reason.TRUNCATED),
    "bad/ct.dcm": (real_file("CT_small.dcm"), Reason.NOT_ULTRASOUND),
    "bad/huge.dcm": (
        ultrasound(speckle(), Rows=65535, Columns=65535, NumberOfFrames=10000),
        Reason.TOO_LARGE,
    ),
    "bad/no-region.dcm": (real_file("ExplVR_BigEnd.dcm"), Reason.PHI_SUSPECTED),
    "bad/plain.png": (picture(), Reason.PHI_SUSPECTED),
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    (tmp_path / "archive").mkdir()
    (tmp_path / "workspace").mkdir()
    return Config(workspace=str(tmp_path / "workspace"), archive=str(tmp_path / "archive"))


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
        summary = run_index(config)
        assert (summary.objects, summary.unchanged) == (len(GOOD) + len(BAD), 0)
        assert (summary.indexed, summary.rejected) == (len(GOOD), len(BAD))
        rows, cases = tables(config)
        root = Store(config.archive).root
        reasons = {row.uri.removeprefix(f"{root}/"): row.reason for row in rows}
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

    def test_a_run_killed_before_the_instances_were_written_is_done_again(
        self, config: Config, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(config, GOOD)
        whole = Store.write_table

        def dies(self: Store, table: object, *parts: str) -> None:
            if parts[0] == "instances":
                raise KeyboardInterrupt
            whole(self, table, *parts)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "write_table", dies)
            with pytest.raises(KeyboardInterrupt):
                run_index(config)
        assert run_index(config).indexed == len(GOOD)
        assert len(read_cases(Store(config.workspace))) == 3

    def test_declaring_the_archive_clean_reads_the_suspected_ones_again(self, config: Config) -> None:
        fill(config, {"p/1.png": picture(1), "p/2.png": picture(2), "zero": b""})
        with pytest.raises(NothingToDoError, match="phi-suspected"):
            run_index(config)
        clean = config.model_copy(update={"index": IndexConfig(deidentify=TRUSTING)})
        summary = run_index(clean)
        assert (summary.unchanged, summary.indexed, summary.cases) == (1, 2, 1)

    @pytest.mark.parametrize(("retryable", "indexed"), [(True, 1), (False, 0)])
    def test_a_rejection_is_tried_again_only_where_that_can_help(
        self, config: Config, retryable: bool, indexed: int
    ) -> None:
        fill(config, {"a": GOOD["1/1"], "b": GOOD["2/1"]})
        infos = list(Store(config.archive).list_objects())
        before = row(infos[0].uri, images=0, case_id=None, status="rejected", retryable=retryable)
        known = [before.model_copy(update={"etag": infos[0].etag})]
        Store(config.workspace).write_table(InstanceRecord.table(known), "instances", "0.parquet")
        assert run_index(config).indexed == indexed + 1

    def test_an_archive_without_a_readable_object_says_so_and_keeps_the_reasons(self, config: Config) -> None:
        fill(config, {name: data for name, (data, _) in BAD.items()})
        with pytest.raises(NothingToDoError, match="not-ultrasound"):
            run_index(config)
        rows, cases = tables(config)
        assert (len(rows), cases) == (len(BAD), [])

    def test_a_workspace_that_refuses_images_fails_the_run_with_a_storage_error(self, config: Config) -> None:
        fill(config, GOOD)
        (Path(config.workspace) / "images").write_text("a file where the folder should be")
        with pytest.raises(StorageError) as caught:
            run_index(config)
        assert "\n" not in str(caught.value)
        assert not (Path(config.workspace) / "instances").exists()


def test_an_empty_archive_is_nothing_to_do_and_writes_nothing(config: Config) -> None:
    with pytest.raises(NothingToDoError, match="holds no object"):
        run_index(config)
    assert list(Path(config.workspace).iterdir()) == []


def row(
    uri: str, *, case: str = "c", images: int = 1, instance: str | None = None, **more: object
) -> InstanceRecord:
    name = instance or uri
    return InstanceRecord.model_validate(
        {
            "instance_id": name,
            "uri": uri,
            "etag": "e",
            "size_bytes": 1,
            "status": "indexed",
            "case_id": case,
            "patient_key": "p",
            "images": [
                CaseImage(
                    image_key=f"{name}-{n}", instance_id=name, frame_index=n, width=COLUMNS, height=ROWS
                )
                for n in range(images)
            ],
            "indexed_at": datetime(2026, 1, 1, tzinfo=UTC),
            **more,
        }
    )


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def keys(*rows: InstanceRecord, max_images: int = 4) -> list[list[str]]:
    cases = group_cases(rows, IndexConfig(max_images=max_images), indexed_at=NOW)
    return [[image.image_key for image in case.images] for case in cases]


def test_every_instance_gives_a_frame_before_any_gives_a_second() -> None:
    assert keys(row("a", images=5), row("b", images=2), row("c"), max_images=4) == [
        ["a-0", "a-1", "b-0", "c-0"]
    ]
    assert keys(row("a", images=5), row("b"), max_images=2) == [["a-0", "b-0"]]


def test_grouping_does_not_depend_on_the_order_of_rows_and_counts_copies_once() -> None:
    rows = [row("b", images=2), row("a"), row("z-copy", instance="a"), row("d", case="other")]
    assert keys(*rows) == keys(*reversed(rows)) == [["a-0", "b-0", "b-1"], ["d-0"]]


def test_a_case_has_an_organ_only_where_its_instances_agree() -> None:
    def hint(*organs: str | None) -> str | None:
        rows = [row(str(n), organ_hint=organ) for n, organ in enumerate(organs)]
        (case,) = group_cases(rows, IndexConfig(), indexed_at=NOW)
        return case.organ_hint

    assert hint("liver", None, "liver") == "liver"
    assert hint("liver", "kidney") is None
    assert hint(None) is None


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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
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
