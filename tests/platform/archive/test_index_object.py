"""One archive object becomes one row, with its clean key frames in the workspace."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from dicom_files import IDENTIFIERS, REGION, picture, real_file, speckle, ultrasound
from PIL import Image
from pydantic import SecretStr

from sonoloop.platform.archive.deidentify.clean import DeidentifyConfig
from sonoloop.platform.archive.index_object import IndexConfig, index_object
from sonoloop.platform.errors import Reason, StorageError
from sonoloop.platform.records import InstanceRecord
from sonoloop.platform.workspace import ObjectInfo, Store

KEY = SecretStr("a key for tests only")
TRUSTING = DeidentifyConfig(pictures_are_clean=True)


class Room:
    """An archive and a workspace in two folders."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.workspace = Store(str(folder / "archive")), Store(str(folder / "workspace"))

    def index(
        self, data: bytes, name: str = "s/1.dcm", config: IndexConfig | None = None, key: SecretStr = KEY
    ) -> InstanceRecord:
        self.archive.write_bytes(data, name)
        (info,) = (i for i in self.archive.list_objects() if i.uri.endswith(name))
        return self.read(info, config or IndexConfig(), key)

    def read(self, info: ObjectInfo, config: IndexConfig, key: SecretStr = KEY) -> InstanceRecord:
        return index_object(
            info,
            archive=self.archive,
            workspace=self.workspace,
            config=config,
            key=key,
            now=datetime(2026, 1, 2, tzinfo=UTC),
        )

    def image(self, key: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.workspace.read_bytes(key))))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_an_ultrasound_object_is_indexed_with_a_clean_image(room: Room) -> None:
    pixels = speckle(1)
    row = room.index(ultrasound(pixels))
    assert (row.status, row.organ_hint, row.num_frames, row.reason) == ("indexed", "liver", 1, None)
    (image,) = row.images
    written = room.image(image.image_key)
    left, top, right, bottom = REGION
    expected = np.zeros_like(pixels)
    expected[top : bottom + 1, left : right + 1] = pixels[top : bottom + 1, left : right + 1]
    np.testing.assert_array_equal(written, expected)
    assert (image.height, image.width) == pixels.shape


def test_neither_the_row_nor_the_image_carries_an_identifier(room: Room) -> None:
    row = room.index(ultrasound(speckle(1)))
    text = row.model_dump_json() + room.workspace.read_bytes(row.images[0].image_key).decode("latin-1")
    assert [word for word in IDENTIFIERS if word in text] == []


def test_pseudonyms_depend_on_the_key_and_on_the_identifier(room: Room) -> None:
    row = room.index(ultrasound(speckle()))
    again = room.index(ultrasound(speckle()), "other/place.dcm")
    other_study = room.index(ultrasound(speckle(), study="1.2.3"), "3.dcm")
    other_key = room.index(ultrasound(speckle()), key=SecretStr("another key of tests"))
    assert (again.case_id, again.patient_key, again.instance_id) == (
        row.case_id,
        row.patient_key,
        row.instance_id,
    )
    assert other_study.case_id != row.case_id
    assert other_study.patient_key == row.patient_key
    assert other_key.patient_key != row.patient_key


def test_a_loop_gives_as_many_key_frames_as_asked(room: Room) -> None:
    row = room.index(ultrasound(speckle(1, frames=9), frames=9), config=IndexConfig(key_frames=3))
    assert len({image.image_key for image in row.images}) == 3
    assert [image.frame_index for image in row.images] == sorted(image.frame_index for image in row.images)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("examples_ybr_color.dcm", None),
        ("examples_palette.dcm", None),
        ("ExplVR_BigEnd.dcm", Reason.PHI_SUSPECTED),
        ("examples_jpeg2k.dcm", Reason.PHI_SUSPECTED),
        ("examples_rgb_color.dcm", Reason.PHI_SUSPECTED),
    ],
)
def test_real_files_pass_only_with_regions_or_when_the_archive_was_cleaned(
    room: Room, name: str, reason: Reason | None
) -> None:
    row = room.index(real_file(name))
    assert row.reason == reason
    assert bool(row.images) == (reason is None)
    assert room.index(real_file(name), config=IndexConfig(deidentify=TRUSTING)).status == "indexed"


def test_nothing_is_written_for_an_object_whose_second_key_frame_is_broken(room: Room) -> None:
    data = ultrasound(speckle(1, frames=2), frames=2)
    row = room.index(data[:-100])
    assert row.reason == Reason.TRUNCATED
    assert row.images == ()
    assert list(room.workspace.list_objects()) == []


def test_a_folder_of_pictures_is_one_case_and_a_lone_picture_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clean = IndexConfig(deidentify=TRUSTING)
    for archive in ("archive", f"file://{tmp_path}/archive", str(tmp_path / "archive")):
        room = Room(tmp_path)
        room.archive = Store(archive)
        one, other, third, fourth = (
            room.index(picture(seed), name, clean)
            for seed, name in enumerate(("liver/1.png", "liver/2.png", "3.png", "4.png"))
        )
        assert one.case_id == other.case_id
        assert len({one.case_id, third.case_id, fourth.case_id}) == 3
        assert (one.organ_hint, third.organ_hint) == ("liver", None)


def test_an_object_that_vanished_is_a_rejection(room: Room) -> None:
    row = room.read(ObjectInfo(room.archive.uri_of("gone.dcm"), 10, "e"), IndexConfig())
    assert (row.status, row.reason, row.retryable) == ("rejected", Reason.STORAGE, False)


def test_a_store_that_fails_is_a_rejection_that_may_be_tried_again(room: Room) -> None:
    Path(room.archive.root, "folder").mkdir(parents=True)
    row = room.read(ObjectInfo(room.archive.uri_of("folder"), 10, "e"), IndexConfig())
    assert (row.status, row.reason, row.retryable) == ("rejected", Reason.STORAGE, True)


def test_an_object_beyond_the_size_limit_is_rejected_before_it_is_fetched(room: Room) -> None:
    row = room.read(ObjectInfo(room.archive.uri_of("gone.dcm"), 2**40, "e"), IndexConfig())
    assert (row.reason, row.retryable) == (Reason.TOO_LARGE, False)


def test_a_file_name_that_is_not_utf8_is_a_rejection_whose_row_fits_the_table(room: Room) -> None:
    folder = Path(room.archive.root)
    folder.mkdir()
    (folder / "caf\udce9.dcm").write_bytes(ultrasound(speckle()))
    (info,) = room.archive.list_objects()
    row = room.read(info, IndexConfig())
    assert row.reason == Reason.STORAGE
    assert InstanceRecord.table([row]).num_rows == 1


def test_a_workspace_that_cannot_be_written_is_no_fault_of_the_object(room: Room) -> None:
    Path(room.workspace.root).write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="workspace"):
        room.index(ultrasound(speckle()))
