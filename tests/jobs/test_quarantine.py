"""People see what waits, let it out or keep it in; nobody's decision is lost."""

from __future__ import annotations

import io
import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from dicom_files import ultrasound
from PIL import Image
from planted_text import plant, speckle_field
from pydantic import SecretStr

from sonoloop.jobs.config import Config
from sonoloop.jobs.quarantine import quarantine, run_keep, run_list, run_release, run_show
from sonoloop.platform.archive.deidentify.clean import RULES_VERSION, clean_frames
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.masks import Box
from sonoloop.platform.archive.deidentify.quarantine import (
    Keep,
    Release,
    decide,
    person,
    read_decisions,
    read_releases,
    release_of,
)
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.errors import ConfigError, ConflictError, Reason
from sonoloop.platform.identity import KEY_VARIABLE, pseudonym
from sonoloop.platform.sorted_rooms import FRAMES, INSTANCES, write_sorted
from sonoloop.platform.workspace import Store, file_etag

if TYPE_CHECKING:
    from conftest import S3Stack

KEY = "0123456789abcdef-of-the-tests"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """One ultrasound without regions and with a name in it, indexed and rejected for that."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    for room in ("archive", "workspace"):
        (tmp_path / room).mkdir()
    pixels = plant(speckle_field(1, rows=180, columns=240), "ZIMMERMANN", (20, 20))
    path = tmp_path / "archive" / "one.dcm"
    path.write_bytes(ultrasound(pixels, regions=()))
    instance = open_instance(io.BytesIO(path.read_bytes()), name="one.dcm")
    instance_id = pseudonym(SecretStr(KEY), "instance", instance.instance_uid)
    settings = Config(workspace=str(tmp_path / "workspace"), archive=str(tmp_path / "archive"))
    row = InstanceRecord(
        instance_id=instance_id,
        uri=str(path),
        etag=file_etag(path.stat()),
        size_bytes=path.stat().st_size,
        status="indexed",
        case_id="c",
        patient_key="p",
        indexed_at=NOW,
    )
    rejected = FrameRecord(
        instance_id=instance_id,
        case_id="c",
        status="rejected",
        reason=Reason.PHI_SUSPECTED,
        detail="no ultrasound region is declared, and there is text other than scanner marks",
        rules_version=RULES_VERSION,
        prepared_at=NOW,
    )
    write_sorted(Store(settings.workspace), INSTANCES, [row], "a.parquet")
    write_sorted(Store(settings.workspace), FRAMES, [rejected], "a.parquet")
    return settings


def waiting(config: Config) -> str:
    (one,) = run_list(config)
    return one.instance_id


def test_what_waits_is_listed_in_a_table_of_100_columns_and_as_json(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = tmp_path / "sonoloop.toml"
    toml.write_text(f'workspace = "{config.workspace}"\narchive = "{config.archive}"\n')
    quarantine("list", config=str(toml), json=True)  # type: ignore[arg-type]
    (row,) = json.loads(capsys.readouterr().out)
    assert row["decision"] == "none"
    assert row["instance_id"] == waiting(config)
    quarantine("list", config=str(toml))  # type: ignore[arg-type]
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 100
    assert row["instance_id"] in table
    assert "one.dcm" not in table


def test_a_picture_is_shown_outlined_to_its_owner_only_and_never_into_the_workspace(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "look.png"
    shown = run_show(config, waiting(config), out)
    assert sum(shown.places.values()) >= 1
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "patient data" in capsys.readouterr().err
    colours = np.unique(np.asarray(Image.open(out)).reshape(-1, 3), axis=0)
    assert any(tuple(colour) in ((255, 40, 40), (255, 200, 0)) for colour in colours.tolist())
    with pytest.raises(ConfigError, match="workspace"):
        run_show(config, waiting(config), Path(config.workspace) / "look.png")
    with pytest.raises(ConfigError, match="exists"):
        run_show(config, waiting(config), out)


def test_a_release_is_written_with_who_and_masks_and_lets_the_instance_out(config: Config) -> None:
    instance_id = waiting(config)
    decided = run_release(
        config, instance_id, by="Ada Officer", masks=(Box(0, 0, 9, 9),), note="only a label"
    )
    release = read_releases(Store(config.workspace))[instance_id]
    assert release.by == decided.by == person(SecretStr(KEY), " ada officer")
    assert "ada" not in release.model_dump_json().casefold()
    assert run_list(config)[0].decision == "release"
    (path,) = Path(config.archive).iterdir()
    instance = open_instance(io.BytesIO(path.read_bytes()), name="one.dcm")
    (frame,) = clean_frames([instance.frame(0)], instance, DeidentifyConfig(), release=release).frames
    assert not frame[:10, :10].any()


def test_a_release_is_of_one_version_of_the_object(config: Config) -> None:
    run_release(config, waiting(config), by="Ada")
    (path,) = Path(config.archive).iterdir()
    row = InstanceRecord(
        instance_id=waiting(config),
        uri=str(path),
        etag="another",
        size_bytes=1,
        status="indexed",
        case_id="c",
        indexed_at=datetime(2026, 1, 3, tzinfo=UTC),
    )
    write_sorted(Store(config.workspace), INSTANCES, [row], "b.parquet")
    assert run_list(config)[0].decision == "none"
    assert release_of(read_releases(Store(config.workspace)), row.instance_id, "another") is None


def test_the_newest_decision_counts_and_the_earlier_ones_stay(config: Config) -> None:
    instance_id = waiting(config)
    run_release(config, instance_id, by="Ada")
    run_keep(config, instance_id, by="Ben", note="a face is visible")
    workspace = Store(config.workspace)
    assert read_releases(workspace) == {}
    assert isinstance(read_decisions(workspace)[instance_id], Keep)
    assert len(list(workspace.list_objects(f"quarantine/{instance_id}"))) == 2


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_of_two_who_decide_at_once_one_is_told(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "s3":
        stack: S3Stack = request.getfixturevalue("stack_s3")
        for name, value in stack.env.items():
            monkeypatch.setenv(name, value)
        workspace = Store(f"s3://{stack.bucket()}/w")
    else:
        workspace = Store(str(tmp_path))
    release = Release(instance_id="i", etag="e", by="a", rules_version="2", at=NOW)
    listing = list(workspace.list_objects("quarantine/i"))
    decide(workspace, release)
    with monkeypatch.context() as patch:  # the other saw the room before the first one wrote
        patch.setattr(Store, "list_objects", lambda *_: iter(listing))
        with pytest.raises(ConflictError):
            decide(workspace, release.model_copy(update={"by": "b"}))
    assert read_releases(workspace)["i"].by == "a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action": "show"}, "instance id"),
        ({"action": "show", "instance": "x"}, "--out"),
        ({"action": "release", "instance": "x"}, "--by"),
        ({"action": "release", "instance": "x", "by": "A"}, "no instance x waits"),
        ({"action": "keep", "instance": "x", "by": "A"}, "no instance x"),
        ({"action": "release", "instance": "x", "by": "A", "mask": ["1,2,3"]}, "four whole numbers"),
        ({"action": "release", "instance": "x", "by": "A", "mask": ["5,2,3,9"]}, "LEFT <= RIGHT"),
    ],
)
def test_what_is_asked_wrongly_is_told(
    config: Config, tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    toml = tmp_path / "sonoloop.toml"
    toml.write_text(f'workspace = "{config.workspace}"\narchive = "{config.archive}"\n')
    with pytest.raises(ConfigError, match=message):
        quarantine(**arguments, config=str(toml))  # type: ignore[arg-type]
