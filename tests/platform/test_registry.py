"""The model registry: one name per set of weights, files checked by hash, aliases changed by one writer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

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
    write_weights(folder, 1)
    return folder


def write_weights(folder: Path, value: float, *, num_values: int = 3) -> bytes:
    """A weight file that is one; returns its bytes."""
    path = folder / "model.safetensors"
    save_file({"w": np.full(num_values, value, np.float32)}, path)
    return path.read_bytes()


def visible(folder: Path) -> list[Path]:
    """Files and folders of the cache, without its locks and records."""
    return [path for path in folder.rglob("*") if not path.name.startswith(".")]


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
    write_weights(folder, 2)
    assert registry.publish(workspace, folder, NAME, lineage={}) != version


def test_what_we_wrote_beside_a_model_in_an_earlier_life_is_not_part_of_it(
    workspace: Store, folder: Path
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={"base": "x"})
    for name in ("manifest.json", "decision.json", "calibration.json"):
        (folder / name).write_text("{}")
    (folder / "lineage.json").write_text('{"base": "old"}')
    assert registry.publish(workspace, folder, NAME, lineage={}) == version
    assert registry.read_lineage(workspace, version)["base"] == "x"
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
    assert [path for path in visible(tmp_path / "cache") if path.is_file()] == []
    assert list((tmp_path / "cache").rglob("*.partial")) == []


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
    assert (only / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert [path for path in visible(only.parent) if path.is_dir()] == [only]


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


def test_on_either_store_weights_are_retired_and_changes_and_evaluations_listed(
    workspace: Store, folder: Path
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={"base": "x"})
    workspace.write_bytes(b'{"scores": {"f1": 0.5}}', "models", version, "evaluations", "suite", "one.json")
    assert registry.read_evaluations(workspace, version) == {"suite/one": {"scores": {"f1": 0.5}}}
    seen = registry.set_aliases(workspace, NAME, {"champion": version}, expected=Aliases(), by="a")
    assert b"0.5" in workspace.read_bytes("models", version, "README.md")
    registry.set_aliases(workspace, NAME, {"champion": "line/2"}, expected=seen, by="b")
    assert [change.by for change in registry.alias_changes(workspace, NAME)] == ["a", "b"]
    size = (folder / "model.safetensors").stat().st_size
    assert registry.weights_left(workspace, version) == {"model.safetensors": size}
    assert registry.retire(workspace, version, reason="a test") == size
    assert registry.weights_left(workspace, version) == {}
    with pytest.raises(ConfigError, match="retired"):
        registry.fetch(workspace, version)
    assert registry.publish(workspace, folder, NAME, lineage={}) == version
    registry.check_available(workspace, version)
    assert registry.model_versions(workspace) == [version]


def test_a_file_of_many_parts_comes_back(workspace: Store, folder: Path) -> None:
    written = write_weights(folder, 3, num_values=6_000_000)  # 24 MB: three parts on S3
    copy = registry.fetch(workspace, registry.publish(workspace, folder, NAME, lineage={}))
    assert (copy / "model.safetensors").read_bytes() == written
