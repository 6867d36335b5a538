"""One archive object becomes one row, from its header alone."""

from __future__ import annotations

import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dicom_files import IDENTIFIERS, picture, real_file, speckle, ultrasound
from fault_proxy import Fault, proxy_before
from pydantic import SecretStr

from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.objects import faults
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, StorageError
from sonoloop.platform.workspace import ObjectInfo, S3Config, Store

if TYPE_CHECKING:
    from conftest import S3Stack

KEY = SecretStr("a key for tests only")
CINE_FRAMES = 400


def header_reader(archive: Store, config: IndexConfig | None = None, key: SecretStr = KEY) -> HeaderReader:
    reader = ArchiveReader(archive, config or IndexConfig(tries=2))
    return HeaderReader(reader, key, datetime(2026, 1, 2, tzinfo=UTC))


class Room:
    """An archive in a folder."""

    def __init__(self, folder: Path) -> None:
        self.archive = Store(str(folder / "archive"))

    def read(
        self, data: bytes, name: str = "s/1.dcm", config: IndexConfig | None = None, key: SecretStr = KEY
    ) -> InstanceRecord:
        self.archive.write_bytes(data, name)
        (info,) = (i for i in self.archive.list_objects() if i.uri.endswith(name))
        (row,) = header_reader(self.archive, config, key).read(info)
        return row

    def gone(self, name: str, size: int = 10, config: IndexConfig | None = None) -> InstanceRecord:
        info = ObjectInfo(self.archive.uri_of(name), size, "e")
        (row,) = header_reader(self.archive, config).read(info)
        return row


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_a_row_says_what_the_header_says_and_nothing_of_the_patient(room: Room) -> None:
    row = room.read(ultrasound(speckle(1, frames=3), frames=3))
    assert (row.status, row.organ_hint, row.num_frames, row.num_regions) == ("indexed", "liver", 3, 1)
    assert (row.rows, row.columns, row.modality) == (96, 128, "US")
    assert row.sop_class == "1.2.840.10008.5.1.4.1.1.3.1"
    text = row.model_copy(update={"uri": ""}).model_dump_json()
    assert [word for word in IDENTIFIERS if word in text] == []
    odd = room.read(ultrasound(speckle(1), SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1.99999"))
    assert odd.sop_class is None


def test_pseudonyms_depend_on_the_key_and_on_the_identifier(room: Room) -> None:
    row = room.read(ultrasound(speckle()))
    again = room.read(ultrasound(speckle()), "other/place.dcm")
    other_study = room.read(ultrasound(speckle(), study="1.2.3"), "3.dcm")
    other_key = room.read(ultrasound(speckle()), key=SecretStr("another key of tests"))
    names = ("case_id", "patient_key", "series_key", "instance_id")
    assert [getattr(again, name) for name in names] == [getattr(row, name) for name in names]
    assert (other_study.case_id != row.case_id, other_study.patient_key == row.patient_key) == (True, True)
    assert all(getattr(other_key, name) != getattr(row, name) for name in names)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_OBJECT),
        (b"a text, named like an image\n", Reason.NOT_AN_IMAGE),
        (real_file("CT_small.dcm"), Reason.NOT_ULTRASOUND),
        (ultrasound(speckle(), Rows=65535, Columns=65535, NumberOfFrames=10000), Reason.TOO_LARGE),
    ],
)
def test_what_cannot_be_used_is_a_rejection_with_its_reason(room: Room, data: bytes, reason: Reason) -> None:
    row = room.read(data)
    assert (row.status, row.reason, row.retryable) == ("rejected", reason, False)
    assert row.detail
    assert row.case_id is None


def test_a_folder_of_pictures_is_one_case_and_a_lone_picture_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    room = Room(tmp_path)
    for archive in ("archive", f"file://{tmp_path}/archive", str(tmp_path / "archive")):
        room.archive = Store(archive)
        names = ("liver/1.png", "liver/2.png", "3.png", "4.png")
        one, other, third, fourth = (room.read(picture(seed), name) for seed, name in enumerate(names))
        assert one.case_id == other.case_id
        assert len({one.case_id, third.case_id, fourth.case_id}) == 3
        assert (one.organ_hint, third.organ_hint) == ("liver", None)


def test_members_of_a_tar_have_rows_beside_the_archives_own(room: Room) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (
            ("a/1.dcm", ultrasound(speckle())),
            ("a/readme", b"words"),
            ("a/2.png", picture()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    room.archive.write_bytes(buffer.getvalue(), "all.tar")
    (info,) = room.archive.list_objects()
    own, *members = header_reader(room.archive).read(info)
    assert (own.status, own.uri, own.member) == ("container", info.uri, None)
    assert [row.uri for row in members] == [
        f"{info.uri}!/a/1.dcm",
        f"{info.uri}!/a/readme",
        f"{info.uri}!/a/2.png",
    ]
    assert [row.reason for row in members] == [None, "not-an-image", None]
    assert {row.object_info().uri for row in members} == {info.uri}
    cut = buffer.getvalue()[: 512 + len(ultrasound(speckle())) // 2]
    room.archive.write_bytes(cut, "all.tar")
    (info,) = room.archive.list_objects()
    own, *members = header_reader(room.archive).read(info)
    assert (own.status, own.reason, len(members)) == ("rejected", "unreadable", 1)


def test_an_object_that_vanished_is_a_rejection_for_good(room: Room) -> None:
    row = room.gone("gone.dcm")
    assert (row.status, row.reason, row.retryable) == ("rejected", Reason.STORAGE, False)


def test_an_object_that_changed_or_cannot_be_read_now_is_a_rejection_that_may_be_tried_again(
    room: Room,
) -> None:
    Path(room.archive.root, "folder").mkdir(parents=True)
    room.archive.write_bytes(ultrasound(speckle()), "changed")
    for name in ("folder", "changed"):
        row = room.gone(name)
        assert (row.status, row.reason, row.retryable) == ("rejected", Reason.STORAGE, True)


def test_an_object_beyond_the_size_limit_is_rejected_before_it_is_opened(room: Room) -> None:
    row = room.gone("gone.dcm", 2**40)
    assert (row.reason, row.retryable, row.requests) == (Reason.TOO_LARGE, False, 0)


def test_a_file_name_that_is_not_utf8_is_a_rejection_whose_row_fits_the_table(room: Room) -> None:
    folder = Path(room.archive.root)
    folder.mkdir()
    (folder / "caf\udce9.dcm").write_bytes(ultrasound(speckle()))
    (info,) = room.archive.list_objects()
    (row,) = header_reader(room.archive).read(info)
    assert row.reason == Reason.STORAGE
    assert InstanceRecord.table([row]).num_rows == 1


@pytest.fixture
def s3(stack_s3: S3Stack, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(faults, "FIRST_PAUSE_S", 0.01)
    return Store(f"s3://{stack_s3.bucket()}")


def test_on_s3_the_header_of_a_long_loop_costs_one_request_and_64_kb(s3: Store) -> None:
    s3.write_bytes(ultrasound(speckle(frames=CINE_FRAMES), frames=CINE_FRAMES), "cine.dcm")
    (info,) = s3.list_objects()
    (row,) = header_reader(s3).read(info)
    assert (row.status, row.num_frames) == ("indexed", CINE_FRAMES)
    assert info.size_bytes > 4_900_000
    assert (row.requests, row.bytes_read) == (1, 65_536)


@pytest.mark.parametrize("data", [ultrasound(speckle()), picture(), picture(kind="JPEG")])
def test_a_fault_of_the_store_is_not_taken_for_a_broken_file(
    stack_s3: S3Stack, s3: Store, data: bytes
) -> None:
    s3.write_bytes(data, "a")
    (info,) = s3.list_objects()
    with proxy_before(stack_s3.endpoint) as proxy:
        archive = Store(s3.uri, S3Config(endpoint_url=proxy.endpoint))
        proxy.fails = lambda *_: Fault(503, "SlowDown")
        (row,) = header_reader(archive).read(info)
        assert (row.reason, row.retryable) == (Reason.STORAGE, True)
        proxy.fails = lambda *_: Fault(400, "ExpiredToken")
        with pytest.raises(StorageError, match="access refused"):
            header_reader(archive).read(info)
        infos = [info] * 50
        asked = proxy.asked.total()
        with pytest.raises(StorageError, match="access refused"):
            header_reader(archive).read_all(infos, at_once=4, done=lambda _: None)
        assert proxy.asked.total() - asked < len(infos)
