"""What people have comes in whole: each entry taken or rejected, pixels clean or not at all."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from dicom_files import REGION, speckle, ultrasound
from PIL import Image
from planted_text import plant, speckle_field
from pydantic import SecretStr
from typer.testing import CliRunner

from sonoloop.jobs.config import Config
from sonoloop.jobs.importing import import_conversations, run_import
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.conversations.chunks import ChunkImporter, ImportCounts, ImportRejection
from sonoloop.platform.conversations.files import read_chunks
from sonoloop.platform.errors import ConfigError, NothingToDoError, StorageError
from sonoloop.platform.identity import KEY_VARIABLE, pseudonym
from sonoloop.platform.records import ConversationRecord
from sonoloop.platform.workspace import Store

KEY = SecretStr("0123456789abcdef-of-the-tests")
SECRET = "Zimmermann"
FIRST, LATER = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))


def entry(image: str | None = "a.png", text: str = "Normal.", **more: Any) -> dict[str, Any]:
    asked = "Describe." if image is None else "<image> Describe."
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": text}]
    return {"id": f"{SECRET}-1", "image": image, "conversations": turns, **more}


class Room:
    """A folder of pictures, a file of entries and a workspace."""

    def __init__(self, folder: Path) -> None:
        self.images, self.file = folder / "images", folder / "set.jsonl"
        self.images.mkdir()
        (folder / "workspace").mkdir()
        self.workspace = Store(str(folder / "workspace"))

    def picture(self, name: str, pixels: np.ndarray | None = None) -> None:
        path = self.images / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(speckle_field(1)[40:240, :300] if pixels is None else pixels).save(path)

    def entries(self, *entries: Any) -> None:
        self.file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in entries))

    def bring(self, now: datetime = FIRST) -> ImportCounts:
        """Import the file in chunks of two, here and not in tasks."""
        root = Store(str(self.images))
        importer = ChunkImporter(self.workspace, root, IndexConfig(), KEY, "mine", now)
        total = ImportCounts()
        for chunk in read_chunks(self.file, 2):
            total.add(importer.import_chunk(chunk))
        return total

    def taken(self) -> list[ConversationRecord]:
        table = self.workspace.read_tables(ConversationRecord.ARROW, "imported", "mine", "conversations")
        return [ConversationRecord.from_row(row) for row in table.to_pylist()]

    def rejected(self) -> list[ImportRejection]:
        table = self.workspace.read_tables(ImportRejection.ARROW, "imported", "mine", "rejections")
        return [ImportRejection.from_row(row) for row in table.to_pylist()]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_every_entry_is_taken_or_rejected_with_stage_and_reason(room: Room) -> None:
    room.picture("a.png")
    (room.images / "empty.png").touch()
    (room.images / "broken.png").write_bytes(b"no picture")
    frames = [Image.fromarray(speckle(seed)) for seed in (1, 2)]
    frames[0].save(room.images / "loop.gif", save_all=True, append_images=frames[1:])
    room.entries(
        entry(),
        '{"id": "' + SECRET,
        entry("none.png"),
        entry(str(room.images / "a.png")),
        entry("../images/a.png"),
        entry("https://example.org/a.png"),
        entry("empty.png"),
        entry("broken.png"),
        entry("loop.gif"),
        entry(text=" "),
        entry(None, text=f"{SECRET} shows nothing."),
        [SECRET],
        entry(None, text="\ud800"),
        entry("a\x00.png"),
        entry(text=f"Dr. {SECRET} was told on 3 May 2021."),
        entry(text=f"The liver of {SECRET.lower()} is even.", patient=SECRET),
    )
    counts = room.bring()
    assert (counts.entries, counts.taken) == (16, 1)
    rows = {row.place: (row.stage, row.reason) for row in room.rejected()}
    assert rows == {
        2: ("entry", "bad-json"),
        3: ("images", "image-missing"),
        4: ("images", "image-missing"),
        5: ("images", "image-missing"),
        6: ("images", "image-missing"),
        7: ("images", "empty-object"),
        8: ("images", "not-an-image"),
        9: ("images", "not-an-image"),
        10: ("entry", "empty-answer"),
        11: ("entry", "image-count"),
        12: ("entry", "bad-entry"),
        13: ("entry", "bad-json"),
        14: ("images", "image-missing"),
        15: ("entry", "phi-suspected"),
        16: ("entry", "phi-suspected"),
    }
    assert counts.reasons.total() == 15
    stored = b"".join(path.read_bytes() for path in Path(room.workspace.uri).rglob("*") if path.is_file())
    assert SECRET.encode() not in stored


def test_a_link_out_of_the_folder_is_not_followed(room: Room, tmp_path: Path) -> None:
    Image.fromarray(speckle()).save(tmp_path / "outside.png")
    (room.images / "a.png").symlink_to(tmp_path / "outside.png")
    room.entries(entry())
    assert room.bring().reasons == {"image-missing": 1}


def test_pixels_come_in_clean_or_not_at_all(room: Room) -> None:
    room.picture("named.png", plant(speckle_field(2), "ZIMMERMANN, ADELHEID", (40, 60), size=14))
    (room.images / "us.dcm").write_bytes(ultrasound(speckle(), regions=(REGION,)))
    room.entries(entry("named.png"), entry("us.dcm"))
    counts = room.bring()
    assert (counts.taken, counts.reasons) == (1, {"phi-suspected": 1})
    ((key,),) = (one.image_keys for one in room.taken())
    pixels = np.asarray(Image.open(io.BytesIO(room.workspace.read_bytes(key))))
    assert not pixels[:20].any(), "black outside the declared region"
    assert pixels[30:80, 20:100].any()
    assert [info.uri for info in room.workspace.list_objects("images")] == [room.workspace.path(key)]


def test_the_same_import_again_changes_nothing_and_what_is_there_now_is_taken(room: Room) -> None:
    room.picture("a.png")
    room.entries(entry(), entry("b.png"), entry("none.png"))
    assert (room.bring().written, room.bring(LATER).written) == (3, 0)
    before = {path: path.stat().st_mtime_ns for path in Path(room.workspace.uri).rglob("*.parquet")}
    first = room.taken()
    room.bring(LATER)
    assert before == {path: path.stat().st_mtime_ns for path in Path(room.workspace.uri).rglob("*.parquet")}
    room.picture("b.png", speckle_field(7)[40:240, :300])
    counts = room.bring(LATER)
    assert (counts.taken, counts.written, counts.reasons) == (2, 1, {"image-missing": 1})
    assert [row.place for row in room.rejected()] == [3]
    after = room.taken()
    assert [one.indexed_at for one in after] == [FIRST, LATER]
    assert after[0] == first[0]


def test_ids_and_groups_come_from_content_and_patients_are_those_of_the_archive(room: Room) -> None:
    for name in ("a.png", "same.png"):
        room.picture(name)
    room.picture("b.png", speckle_field(7)[40:240, :300])
    room.entries(
        entry(),
        entry("same.png"),
        entry(text="Other words."),
        entry("b.png", patient="PID-1"),
        entry("b.png", group="study 4"),
    )
    room.bring()
    one, same, other, patient, group = room.taken()
    assert one.conversation_id == same.conversation_id != other.conversation_id
    assert one.group_key == other.group_key, "by the picture"
    assert patient.group_key == pseudonym(KEY, "patient", "PID-1")
    assert group.group_key not in (patient.group_key, one.group_key)
    assert one.source_id == pseudonym(KEY, "source", f"{SECRET}-1")
    assert one.turns[0].text == "<image> Describe."


@pytest.fixture
def config(room: Room, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv(KEY_VARIABLE, KEY.get_secret_value())
    return Config(workspace=room.workspace.uri, archive=str(room.images))


@pytest.mark.ray
def test_the_verb_imports_in_tasks_and_says_what_came_of_it(
    room: Room, config: Config, ray_cluster: str, tmp_path: Path
) -> None:
    room.picture("a.png")
    room.entries(entry(), "{", *(entry(text=f"Answer {number}.") for number in range(70)))
    settings = tmp_path / "sonoloop.toml"
    settings.write_text(f'archive = "{room.images}"\nworkspace = "{room.workspace.uri}"\n')
    app = typer.Typer()
    app.command()(import_conversations)
    arguments = [str(room.file), "--images", str(room.images), "--name", "mine", "-c", str(settings)]
    answer = CliRunner().invoke(app, [*arguments, "--json"])
    assert answer.exit_code == 0, answer.output
    said = json.loads(answer.stdout)
    assert said == {
        "name": "mine",
        "entries": 72,
        "taken": 71,
        "rejected": 1,
        "rejected_by_reason": {"bad-json": 1},
        "new_rows": 72,
    }
    again = run_import(config, room.file, images=str(room.images), name="mine")
    assert again.model_dump() == {**said, "new_rows": 0}
    room.entries(entry(), "{", "{")
    with pytest.raises(ConfigError, match="mine is of another file"):
        run_import(config, room.file, images=str(room.images), name="mine")
    room.entries("{")
    with pytest.raises(NothingToDoError, match=r"no entry could be taken: \{'bad-json': 1\}"):
        run_import(config, room.file, images=str(room.images), name="other")
    room.entries()
    with pytest.raises(NothingToDoError, match="holds no entry"):
        run_import(config, room.file, images=str(room.images), name="third")


def test_a_wrong_name_file_or_folder_is_told_before_anything_is_written(room: Room, config: Config) -> None:
    room.entries(entry())
    for name in ("", "../x", "A", "x/y"):
        with pytest.raises(ConfigError, match="--name must match"):
            run_import(config, room.file, images=str(room.images), name=name)
    with pytest.raises(ConfigError, match="cannot be read"):
        run_import(config, room.images / "none", images=str(room.images), name="x")
    with pytest.raises(StorageError, match="does not exist"):
        run_import(config, room.file, images=str(room.images / "none"), name="x")
    assert not list(room.workspace.list_objects())
