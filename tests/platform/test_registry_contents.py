"""What the registry lets in: safetensors and settings; no pickle, no code, nothing that is cut short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sonoloop.model import nano
from sonoloop.platform import registry
from sonoloop.platform.errors import CheckpointError
from sonoloop.platform.registry.versions import _version_of
from sonoloop.platform.workspace import Store

NAME = "line"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "training_args.bin", "a.pt", "a.PTH", "a.pkl", "a.ckpt", "a.npz"]
)
def test_a_file_that_may_be_a_pickle_is_refused(workspace: Store, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=rf"{name}.*only safetensors"):
        registry.publish(workspace, folder, NAME, lineage={})
    assert list(workspace.list_objects()) == []


@pytest.mark.parametrize("name", ["modeling_echo.py", "run.sh", "kernel.so"])
def test_a_file_of_code_is_refused(workspace: Store, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"{name}.*no code"):
        registry.publish(workspace, folder, NAME, lineage={})


def test_a_file_of_an_unknown_kind_is_refused_and_a_hidden_one_left_out(
    workspace: Store, folder: Path
) -> None:
    (folder / ".gitattributes").write_text("x")
    version = registry.publish(workspace, folder, NAME, lineage={})
    assert ".gitattributes" not in registry.read_manifest(workspace, version)
    (folder / "model.gguf").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.gguf; expected"):
        registry.publish(workspace, folder, NAME, lineage={})


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("inside", [False, True])
def test_settings_that_name_code_to_import_are_refused(
    workspace: Store, folder: Path, name: str, inside: bool
) -> None:
    settings = {"auto_map": {"AutoModel": "evil--repo.Model"}}
    (folder / name).write_text(json.dumps({"parts": [settings]} if inside else settings))
    with pytest.raises(CheckpointError, match=f"{name}.*auto_map"):
        registry.publish(workspace, folder, NAME, lineage={})


def test_a_vocabulary_may_hold_any_word(workspace: Store, folder: Path) -> None:
    (folder / "vocab.json").write_text('{"auto_map": 7}')
    assert registry.publish(workspace, folder, NAME, lineage={})


@pytest.mark.parametrize("damage", ["cut", "pickle", "empty"])
def test_weights_that_are_no_whole_safetensors_are_refused(
    workspace: Store, folder: Path, damage: str
) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-1], "pickle": b"\x80\x04K\x01.", "empty": b""}[damage])
    with pytest.raises(CheckpointError, match="cut short or no safetensors"):
        registry.publish(workspace, folder, NAME, lineage={})


@pytest.mark.parametrize("planted", ["extra.bin", "modeling.py", "config.json"])
def test_a_workspace_that_was_tampered_with_whole_manifest_and_all_is_refused(
    workspace: Store, folder: Path, planted: str, tmp_path: Path
) -> None:
    registry.publish(workspace, folder, NAME, lineage={})
    (folder / planted).write_text('{"auto_map": {"AutoModel": "x.Y"}}')
    manifest = {path.name: _sha256(path) for path in folder.iterdir()}
    place = ("models", NAME, _version_of(manifest))
    for path in folder.iterdir():
        workspace.write_bytes(path.read_bytes(), *place, path.name)
    workspace.write_bytes(json.dumps(manifest).encode(), *place, "manifest.json")
    with pytest.raises(CheckpointError, match=planted.replace(".", r"\.")):
        registry.fetch(workspace, "/".join(place[1:]))
    assert list((tmp_path / "cache").rglob(planted)) == []


def test_the_built_in_model_is_let_in(workspace: Store) -> None:
    version = registry.publish(workspace, nano.folder(), NAME, lineage={"base": "built in"})
    assert (registry.fetch(workspace, version) / "model.safetensors").is_file()
    card = workspace.read_bytes("models", version, "README.md")
    assert card == (nano.folder() / "README.md").read_bytes()


def _sha256(path: Path) -> str:
    from sonoloop.platform.transfer import file_digest

    return file_digest(path)
