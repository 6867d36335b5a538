"""A version's files: sent and fetched in pieces, gone on with after a kill, looked at before each use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sonoloop.platform import registry, transfer
from sonoloop.platform.errors import CheckpointError, ConfigError
from sonoloop.platform.registry import versions
from sonoloop.platform.workspace import Store

NAME = "line"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for number in range(4):
        save_file({"w": np.full(8, number, np.float32)}, folder / f"model-{number}.safetensors")
    return folder


def test_a_copy_altered_on_this_machine_is_fetched_again(workspace: Store, folder: Path) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    path = registry.fetch(workspace, version) / "model-0.safetensors"
    right, stat = path.read_bytes(), path.stat()
    path.write_bytes(right[:-1] + b"\x01")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as one who hides it would
    assert (registry.fetch(workspace, version) / path.name).read_bytes() == right


@pytest.mark.parametrize("damage", ["cut", "gone", "extra", "swapped"])
def test_a_copy_that_lost_or_gained_something_is_fetched_again(
    workspace: Store, folder: Path, damage: str
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    copy = registry.fetch(workspace, version)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    first, second = copy / "model-0.safetensors", copy / "model-1.safetensors"
    if damage == "cut":
        first.write_bytes(first.read_bytes()[:-1])
    elif damage == "gone":
        first.unlink()
    elif damage == "extra":
        (copy / "modeling.py").write_text("x")
    else:
        first.rename(copy / "x"), second.rename(first), (copy / "x").rename(second)
    copy = registry.fetch(workspace, version)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_files_are_hashed_again_only_where_something_about_them_changed(
    workspace: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    copy = registry.fetch(workspace, version)
    hashed: list[str] = []

    def watched(path: Path) -> str:
        hashed.append(path.name)
        return transfer.file_digest(path)

    monkeypatch.setattr("sonoloop.platform.registry.cache.file_digest", watched)
    registry.fetch(workspace, version)
    assert hashed == []
    (copy / "config.json").touch()
    for _ in range(2):
        registry.fetch(workspace, version)
    assert sorted(hashed) == sorted(path.name for path in folder.iterdir())


def test_a_fetch_that_was_cut_off_goes_on_with_the_files_it_has(
    workspace: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    partial = tmp_path / "cache" / "models" / NAME / f".{version.partition('/')[2]}.partial"
    partial.mkdir(parents=True)
    (partial / "model-0.safetensors").write_bytes((folder / "model-0.safetensors").read_bytes())
    (partial / "model-1.safetensors").write_bytes(b"half")
    fetched: list[str] = []

    def watched(target: Path, store: Store, *parts: str) -> str:
        fetched.append(target.name)
        return transfer.download(target, store, *parts)

    monkeypatch.setattr("sonoloop.platform.registry.cache.download", watched)
    copy = registry.fetch(workspace, version)
    assert "model-0.safetensors" not in fetched
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    assert not partial.exists()


def test_of_many_who_fetch_at_once_one_does(
    workspace: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={})
    fetched: list[str] = []

    def watched(target: Path, store: Store, *parts: str) -> str:
        fetched.append(target.name)
        return transfer.download(target, store, *parts)

    monkeypatch.setattr("sonoloop.platform.registry.cache.download", watched)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: registry.fetch(workspace, version), range(6)))
    assert sorted(fetched) == sorted(path.name for path in folder.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from sonoloop.platform import registry
from sonoloop.platform.registry import versions
from sonoloop.platform.workspace import Store
whole, sent = versions.upload, []
def upload(source, *place):
    if len(sent) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(source.name)
    whole(source, *place)
versions.upload = upload
versions.FILES_AT_ONCE = 1
registry.publish(Store(sys.argv[1]), Path(sys.argv[2]), "line", lineage={})
"""


def test_a_publisher_killed_between_files_leaves_no_version_and_the_next_one_sends_the_rest(
    workspace: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, workspace.uri, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (name,) = workspace.folders("models", NAME)
    version = f"{NAME}/{name}"
    with pytest.raises(ConfigError, match="no model"):
        registry.fetch(workspace, version)
    assert registry.model_versions(workspace) == []
    sent: list[str] = []

    def watched(source: Path, store: Store, *parts: str) -> None:
        sent.append(source.name)
        transfer.upload(source, store, *parts)

    monkeypatch.setattr(versions, "upload", watched)
    assert registry.publish(workspace, folder, NAME, lineage={}) == version
    assert len(sent) == len(list(folder.iterdir())) - 2
    registry.fetch(workspace, version)


@pytest.mark.parametrize("damage", ["altered", "missing", "manifest"])
def test_publishing_again_mends_what_was_damaged(workspace: Store, folder: Path, damage: str) -> None:
    version = registry.publish(workspace, folder, NAME, lineage={"base": "x"})
    place = ("models", *version.split("/"))
    if damage == "missing":
        workspace.remove(*place, "model-2.safetensors")
    else:
        name = "manifest.json" if damage == "manifest" else "model-2.safetensors"
        workspace.write_bytes(b"{}", *place, name)
    with pytest.raises(CheckpointError, match="publish the model again"):
        registry.fetch(workspace, version)
    assert registry.publish(workspace, folder, NAME, lineage={"base": "y"}) == version
    registry.fetch(workspace, version)
    assert registry.read_lineage(workspace, version)["base"] == "x"


def test_those_who_publish_the_same_weights_at_once_do_not_disturb_each_other(
    workspace: Store, folder: Path
) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = set(
            pool.map(lambda n: registry.publish(workspace, folder, NAME, lineage={"run": n}), range(6))
        )
    (version,) = found
    assert registry.read_lineage(workspace, version)["run"] in range(6)
    registry.fetch(workspace, version)


def test_a_large_file_is_never_held_whole(workspace: Store, folder: Path) -> None:
    num_bytes = 8 * transfer.PIECE_BYTES
    save_file({"w": np.zeros(num_bytes // 4, np.float32)}, folder / "model-0.safetensors")
    tracemalloc.start()
    try:
        registry.fetch(workspace, registry.publish(workspace, folder, NAME, lineage={}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * transfer.PIECE_BYTES  # of the eight that it is long
