"""``sonoloop promote --rollback``: one command, and the champion is the one from before."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sonoloop.jobs.config import Config
from sonoloop.jobs.promote import run_rollback
from sonoloop.platform import registry
from sonoloop.platform.errors import CheckpointError, ConfigError, ConflictError
from sonoloop.platform.registry import Aliases
from sonoloop.platform.workspace import Store

NAME = "echovlm-nano"


@pytest.fixture
def pair(workspace: Store, tmp_path: Path) -> tuple[str, str]:
    """The champion from before and the one that replaced it."""
    folder, versions = tmp_path / "model", []
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for value in (1, 2):
        save_file({"w": np.full(3, value, np.float32)}, folder / "model.safetensors")
        versions.append(registry.publish(workspace, folder, NAME, lineage={"base": "x"}))
    old, new = versions
    registry.set_aliases(workspace, NAME, {"champion": new, "previous": old}, expected=Aliases())
    return old, new


def test_a_rollback_swaps_and_the_next_one_swaps_back(
    config: Config, workspace: Store, pair: tuple[str, str]
) -> None:
    old, new = pair
    assert run_rollback(config).champion == old
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=old, previous=new)
    assert run_rollback(config).champion == new
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=new, previous=old)
    changes = registry.alias_changes(workspace, NAME)
    assert [change.by for change in changes][1:] == ["promote --rollback"] * 2


def test_without_a_previous_champion_there_is_no_way_back(config: Config) -> None:
    with pytest.raises(ConfigError, match="no previous champion"):
        run_rollback(config)


@pytest.mark.parametrize("how", ["file", "version", "retired"])
def test_a_previous_champion_that_vanished_is_not_gone_back_to(
    config: Config, workspace: Store, pair: tuple[str, str], how: str
) -> None:
    old, new = pair
    if how == "file":
        workspace.remove("models", *old.split("/"), "model.safetensors")
    elif how == "version":
        workspace.remove_folder("models", *old.split("/"))
    else:
        mark = registry.Retired(at=datetime.now(UTC), reason="a test", files=(), num_bytes=0)
        workspace.write_bytes(mark.model_dump_json().encode(), "models", *old.split("/"), "retired.json")
    with pytest.raises((ConfigError, CheckpointError), match=old):
        run_rollback(config)
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=new, previous=old)


def test_a_champion_that_vanished_can_be_rolled_back(
    config: Config, workspace: Store, pair: tuple[str, str]
) -> None:
    old, new = pair
    workspace.remove_folder("models", *new.split("/"))
    assert run_rollback(config).champion == old
    with pytest.raises(ConfigError, match=new):
        run_rollback(config)


def test_a_promotion_in_between_wins(
    config: Config, workspace: Store, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = pair
    check = registry.check_available

    def somebody_promotes(store: Store, version: str) -> None:
        check(store, version)
        seen = registry.read_aliases(store, NAME)
        registry.set_aliases(store, NAME, {"champion": "third", "previous": new}, expected=seen, by="promote")

    monkeypatch.setattr(registry, "check_available", somebody_promotes)
    with pytest.raises(ConflictError, match="another writer"):
        run_rollback(config)
    assert registry.read_aliases(workspace, NAME) == Aliases(champion="third", previous=new)
    assert [change.by for change in registry.alias_changes(workspace, NAME)][-1] == "promote"
