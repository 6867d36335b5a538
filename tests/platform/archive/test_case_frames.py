"""A case's instances give their share of clean images, or say why they give none."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import IDENTIFIERS, REGION, speckle, ultrasound
from PIL import Image
from pydantic import SecretStr

from sonoloop.platform.archive.deidentify.clean import RULES_VERSION
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.quarantine import Release
from sonoloop.platform.archive.frames import CaseMaker, MadeCase
from sonoloop.platform.archive.grouping import CaseWork
from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, StorageError
from sonoloop.platform.workspace import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TRUSTING = DeidentifyConfig(pictures_are_clean=True)
BURNED_IN: dict[str, Any] = {"regions": (), "BurnedInAnnotation": "YES"}


class Room:
    """An archive and a workspace in two folders."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.workspace = Store(str(folder / "archive")), Store(str(folder / "workspace"))

    def work(self, objects: dict[str, bytes]) -> CaseWork:
        for name, data in objects.items():
            self.archive.write_bytes(data, name)
        reader = HeaderReader(
            ArchiveReader(self.archive, IndexConfig()), SecretStr("a key for tests only"), NOW
        )
        rows = [row for info in self.archive.list_objects() for row in reader.read(info)]
        (case_id,) = {row.case_id for row in rows if row.case_id}
        return CaseWork(case_id, "hash", tuple(sorted(rows, key=lambda row: row.uri)))

    def make(
        self, work: CaseWork, *, releases: dict[str, Release] | None = None, **settings: Any
    ) -> MadeCase:
        config = IndexConfig(**{"deidentify": TRUSTING, **settings})
        reader = ArchiveReader(self.archive, config)
        return CaseMaker(reader, self.workspace, config, NOW, releases or {}).make(work)

    def image(self, key: str | None) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.workspace.read_bytes(str(key)))))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_an_instance_gives_a_clean_image_and_an_audit_of_it(room: Room) -> None:
    pixels = speckle(1)
    made = room.make(room.work({"1": ultrasound(pixels)}))
    (frame,) = made.frames
    left, top, right, bottom = REGION
    expected = np.zeros_like(pixels)
    expected[top : bottom + 1, left : right + 1] = pixels[top : bottom + 1, left : right + 1]
    np.testing.assert_array_equal(room.image(frame.image_key), expected)
    assert (frame.status, frame.frame_index, frame.rules_version) == ("written", 0, RULES_VERSION)
    assert (frame.height, frame.width) == pixels.shape
    assert "outside-regions" in {mask.why for mask in frame.masks}
    (image,) = made.case.images
    assert (image.image_key, made.case.organ_hint, made.case.withdrawn) == (frame.image_key, "liver", False)
    text = repr(made)
    assert [word for word in IDENTIFIERS if word in text] == []


def test_the_budget_is_shared_among_the_instances(room: Room) -> None:
    loops = {n: ultrasound(speckle(int(n), frames=9), frames=9, instance=n) for n in "123"}
    made = room.make(room.work(loops), key_frames=3, max_images=4)
    by_instance = [image.instance_id for image in made.case.images]
    assert sorted(by_instance.count(name) for name in set(by_instance)) == [1, 1, 2]
    one = room.make(room.work(loops), key_frames=3, max_images=1)
    assert (len(one.case.images), len(one.spared)) == (1, 2)


def test_rejected_pixels_give_their_share_to_the_others_and_one_row_with_the_reason(room: Room) -> None:
    objects = {
        "1": ultrasound(speckle(1), instance="1", **BURNED_IN),
        "2": ultrasound(speckle(2), instance="2", **BURNED_IN),
        "3": ultrasound(speckle(3, frames=9), frames=9, instance="3"),
    }
    made = room.make(room.work(objects), max_images=2, key_frames=2, deidentify=DeidentifyConfig())
    rejected = [frame for frame in made.frames if frame.status == "rejected"]
    assert [frame.reason for frame in rejected] == [Reason.PHI_SUSPECTED] * 2
    assert len({frame.instance_id for frame in rejected}) == 2
    assert len(made.case.images) == 2
    assert not {image.instance_id for image in made.case.images} & {f.instance_id for f in rejected}


def test_a_case_of_which_nothing_may_be_shown_is_withdrawn_and_writes_no_image(room: Room) -> None:
    work = room.work({"1": ultrasound(speckle(1), **BURNED_IN)})
    made = room.make(work, deidentify=DeidentifyConfig())
    assert (made.case.withdrawn, made.case.images, made.case.num_retryable) == (True, (), 0)
    assert not Path(room.workspace.root, "images").exists()


def test_a_release_lets_an_instance_out_and_is_named_in_its_rows(room: Room) -> None:
    work = room.work({"1": ultrasound(speckle(1), **BURNED_IN)})
    (row,) = work.rows
    release = Release(
        instance_id=row.instance_id,
        etag=row.etag,
        by="somebody",
        rules_version=RULES_VERSION,
        at=NOW,
        masks=((0, 0, 127, 20),),
    )
    made = room.make(work, deidentify=DeidentifyConfig(), releases={row.instance_id: release})
    (frame,) = made.frames
    assert (frame.status, frame.released_by) == ("written", "somebody")
    assert not room.image(frame.image_key)[:21].any()
    stale = release.model_copy(update={"etag": "of another version"})
    assert room.make(work, deidentify=DeidentifyConfig(), releases={row.instance_id: stale}).case.withdrawn


def test_a_broken_copy_gives_way_to_a_whole_one(room: Room) -> None:
    whole = ultrasound(speckle(1), instance="1")
    work = room.work({"1": whole, "2-copy": whole})
    Path(room.archive.root, "1").write_bytes(b"gone bad")
    made = room.make(work)
    assert [frame.status for frame in made.frames] == ["written"]
    Path(room.archive.root, "2-copy").unlink()
    made = room.make(work)
    (frame,) = made.frames
    assert (frame.status, frame.reason, frame.retryable) == ("rejected", Reason.STORAGE, True)
    assert made.case.num_retryable == 1


def test_a_second_making_writes_the_same_rows_and_no_image_again(room: Room) -> None:
    work = room.work({"1": ultrasound(speckle(1, frames=6), frames=6)})
    first = room.make(work)
    images = {path: path.stat().st_mtime_ns for path in Path(room.workspace.root).rglob("*.png")}
    assert len(images) == 2
    assert room.make(work) == first
    assert {path: path.stat().st_mtime_ns for path in Path(room.workspace.root).rglob("*.png")} == images


def test_a_workspace_that_cannot_be_written_is_no_fault_of_the_object(room: Room) -> None:
    work = room.work({"1": ultrasound(speckle())})
    Path(room.workspace.root).write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="workspace"):
        room.make(work)
