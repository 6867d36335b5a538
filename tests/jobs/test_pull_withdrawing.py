"""What a reader saw patient data in is shown no more, and no index brings it back unless a person says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dicom_files import speckle, ultrasound
from pydantic import SecretStr

from sonoloop.jobs.config import Config
from sonoloop.jobs.pulling.withdrawing import withdraw
from sonoloop.jobs.quarantine import run_list, run_release
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.quarantine import read_keeps, read_releases
from sonoloop.platform.archive.frames import CaseMaker, MadeCase
from sonoloop.platform.archive.grouping import CaseWork
from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.sorted_rooms import CASES, FRAMES, INSTANCES, write_sorted
from sonoloop.platform.tables import read_cases, read_frames
from sonoloop.platform.workspace import Store

KEY = "0123456789abcdef-of-the-tests"
INDEX = IndexConfig(deidentify=DeidentifyConfig(pictures_are_clean=True))
NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Room:
    """An archive with one case of two instances, indexed into a workspace."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.workspace = Store(str(folder / "archive")), Store(str(folder / "workspace"))
        self.config = Config(workspace=self.workspace.uri, archive=self.archive.uri, index=INDEX)
        for number in (1, 2):
            self.archive.write_bytes(ultrasound(speckle(number), instance=str(number)), f"{number}.dcm")
        reader = HeaderReader(ArchiveReader(self.archive, INDEX), SecretStr(KEY), NOW)
        self.rows = [row for info in self.archive.list_objects() for row in reader.read(info)]
        write_sorted(self.workspace, INSTANCES, self.rows, "a.parquet")
        made = self.make()
        write_sorted(self.workspace, FRAMES, made.frames, "a.parquet")
        write_sorted(self.workspace, CASES, [made.case], "a.parquet")
        self.case = made.case

    def make(self) -> MadeCase:
        """The case as an index run makes it now."""
        work = CaseWork(str(self.rows[0].case_id), "hash", tuple(self.rows))
        reader = ArchiveReader(self.archive, INDEX)
        releases, keeps = read_releases(self.workspace), read_keeps(self.workspace)
        return CaseMaker(reader, self.workspace, INDEX, NOW, releases, keeps).make(work)

    def num_images(self) -> int:
        return sum(1 for _ in self.workspace.list_objects("images"))


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    for name in ("archive", "workspace"):
        (tmp_path / name).mkdir()
    return Room(tmp_path)


def test_the_case_is_withdrawn_its_images_go_and_its_instances_wait_in_quarantine(room: Room) -> None:
    assert room.num_images() == 2
    assert withdraw(room.workspace, {room.case.case_id: "reader-1"}) == 1
    assert read_cases(room.workspace) == []
    assert room.num_images() == 0
    waiting = run_list(room.config)
    assert {row.instance_id for row in waiting} == {image.instance_id for image in room.case.images}
    assert {row.decision for row in waiting} == {"keep"}
    assert {keep.by for keep in read_keeps(room.workspace).values()} == {"reader-1"}


def test_a_second_call_changes_nothing(room: Room) -> None:
    withdraw(room.workspace, {room.case.case_id: "reader-1"})
    before = list(room.workspace.list_objects())
    assert withdraw(room.workspace, {room.case.case_id: "reader-1"}) == 0
    assert withdraw(room.workspace, {"a case that is not there": "reader-1"}) == 0
    assert list(room.workspace.list_objects()) == before


def test_an_index_that_makes_the_case_again_keeps_its_instances_in(room: Room) -> None:
    withdraw(room.workspace, {room.case.case_id: "reader-1"})
    made = room.make()
    assert made.case.withdrawn
    assert made.case.images == ()
    assert {frame.reason for frame in made.frames} == {"phi-suspected"}
    assert room.num_images() == 0


def test_a_release_lets_one_instance_out_again(room: Room) -> None:
    withdraw(room.workspace, {room.case.case_id: "reader-1"})
    released = room.case.images[0].instance_id
    run_release(room.config, released, by="Ada")
    made = room.make()
    assert [image.instance_id for image in made.case.images] == [released]


def test_another_case_with_the_same_picture_goes_too_and_one_with_its_own_stays(room: Room) -> None:
    changes = {"indexed_at": NOW, "withdrawn": False}
    same = room.case.model_copy(update={"case_id": "same", "images": room.case.images[:1], **changes})
    image = room.case.images[0].model_copy(update={"image_key": "images/ff/own.png", "instance_id": "own"})
    own = room.case.model_copy(update={"case_id": "own", "images": (image,), **changes})
    write_sorted(room.workspace, CASES, [own, same], "b.parquet")
    assert withdraw(room.workspace, {room.case.case_id: "reader-1"}) == 2
    assert [case.case_id for case in read_cases(room.workspace)] == ["own"]


def test_what_was_rejected_before_stays_listed(room: Room) -> None:
    (first, second) = read_frames(room.workspace)
    rejected = second.model_copy(
        update={"status": "rejected", "image_key": None, "reason": "phi-suspected", "detail": "a face"}
    )
    later = {"prepared_at": NOW + timedelta(hours=1)}
    rows = [row.model_copy(update=later) for row in (first, rejected)]
    write_sorted(room.workspace, FRAMES, rows, "b.parquet")
    case = room.case.model_copy(
        update={"images": room.case.images[:1], "indexed_at": NOW + timedelta(hours=1)}
    )
    write_sorted(room.workspace, CASES, [case], "b.parquet")
    withdraw(room.workspace, {room.case.case_id: "reader-1"})
    details = {row.instance_id: row.detail for row in run_list(room.config)}
    assert details[second.instance_id] == "a face"
    assert "patient data" in details[first.instance_id]
