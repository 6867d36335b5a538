"""The model registry: one name per set of weights, files checked by hash, aliases changed by one writer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sonoloop.platform import registry
from sonoloop.platform.errors import CheckpointError, ConfigError, ConflictError
from sonoloop.platform.registry import Aliases
from sonoloop.platform.workspace import Store

if TYPE_CHECKING:
    from conftest import S3Stack

NAME = "echovlm-nano"


@pytest.fixture(params=["folder", "s3"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SONOLOOP_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "folder":
        return Store(str(tmp_path / "workspace"))
    stack: S3Stack = request.getfixturevalue("stack_s3")
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{stack.bucket()}/ws")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_published_files_come_back_and_the_same_weights_have_the_same_name(
    workspace: Store, folder: Path
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={"base": "x"})
    before = list(workspace.list_objects())
    assert registry.publish(workspace, folder, NAME, lineage={"base": "y"}) == version
    assert list(workspace.list_objects()) == before
    fetched = registry.fetch(workspace, version)
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert registry.publish(workspace, fetched, NAME, lineage={}) == version


def test_a_calibrator_written_beside_a_version_changes_neither_its_name_nor_its_files(
    workspace: Store, folder: Path
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    for text in (b"{}", b"[]"):
        workspace.write_bytes(text, "models", version, "calibration.json")
        assert "calibration.json" not in [path.name for path in registry.fetch(workspace, version).iterdir()]
    assert registry.publish(workspace, folder, NAME, lineage={}) == version
    assert workspace.read_bytes("models", version, "calibration.json") == b"[]"


def test_other_weights_have_another_name(workspace: Store, folder: Path) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert registry.publish(workspace, folder, NAME, lineage={}) != version


def test_what_we_wrote_beside_a_model_in_an_earlier_life_is_not_part_of_it(
    workspace: Store, folder: Path
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={"base": "x"})
    for name in ("manifest.json", "decision.json", "calibration.json"):
        (folder / name).write_text("{}")
    (folder / "lineage.json").write_text('{"base": "old"}')
    assert registry.publish(workspace, folder, NAME, lineage={}) == version
    assert json.loads(workspace.read_bytes("models", version, "lineage.json")) == {"base": "x"}
    registry.fetch(workspace, version)


@pytest.mark.parametrize("damage", ["altered", "missing", "manifest altered", "manifest no json", "path"])
def test_a_damaged_version_is_refused_and_nothing_of_it_is_kept(
    workspace: Store, folder: Path, damage: str, tmp_path: Path
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    place = ("models", *version.split("/"))
    if damage == "altered":
        workspace.write_bytes(b"weighty", *place, "model.safetensors")
    elif damage == "missing":
        workspace.fs.delete_file(workspace.path(*place, "model.safetensors"))
    else:
        manifest = json.loads(workspace.read_bytes(*place, "manifest.json"))
        manifest["../escaped" if damage == "path" else "config.json"] = "0" * 64
        text = "{" if damage == "manifest no json" else json.dumps(manifest)
        workspace.write_bytes(text.encode(), *place, "manifest.json")
    with pytest.raises(CheckpointError, match=version):
        registry.fetch(workspace, version)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept == []


def test_a_version_is_downloaded_once_per_machine(workspace: Store, folder: Path) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    first = registry.fetch(workspace, version)
    workspace.fs.delete_file(workspace.path("models", version, "model.safetensors"))
    assert registry.fetch(workspace, version) == first


def test_processes_that_fetch_at_once_all_get_the_model(workspace: Store, folder: Path) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(lambda _: registry.fetch(workspace, version), range(6)))
    (only,) = folders
    assert (only / "model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in only.parent.iterdir()] == [only.name]


@pytest.mark.parametrize("version", ["echovlm-nano/0123456789ab", "echovlm-nano", ""])
def test_an_unknown_version_is_a_config_error(workspace: Store, version: str) -> None:
    with pytest.raises(ConfigError, match="no model"):
        registry.fetch(workspace, version)


def test_a_folder_without_a_model_is_refused(workspace: Store, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"config\.json"):
            registry.publish(workspace, folder, NAME, lineage={})


def test_aliases_name_versions_and_a_version_names_itself(workspace: Store) -> None:
    assert registry.read_aliases(workspace, NAME) == Aliases()
    with pytest.raises(ConfigError, match="no champion"):
        registry.resolve(workspace, NAME)
    registry.set_aliases(workspace, NAME, {"champion": f"{NAME}/1"}, expected=Aliases())
    assert registry.resolve(workspace, NAME) == f"{NAME}/1"
    assert registry.resolve(workspace, NAME, "2") == f"{NAME}/2"
    assert registry.resolve(workspace, NAME, "other/3") == "other/3"


def test_aliases_that_another_writer_changed_are_left_alone(workspace: Store) -> None:
    seen = registry.set_aliases(workspace, NAME, {"champion": "a/1"}, expected=Aliases())
    registry.set_aliases(workspace, NAME, {"challenger": "a/2"}, expected=seen)
    with pytest.raises(ConflictError, match="another writer"):
        registry.set_aliases(workspace, NAME, {"champion": "a/3"}, expected=seen)
    assert registry.read_aliases(workspace, NAME) == Aliases(champion="a/1", challenger="a/2")


def test_of_several_writers_of_the_aliases_at_once_one_wins(workspace: Store) -> None:
    def write(number: int) -> bool:
        try:
            registry.set_aliases(workspace, NAME, {"champion": f"a/{number}"}, expected=Aliases())
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8))) == 1
