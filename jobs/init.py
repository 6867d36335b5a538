"""``sonoloop init``: a workspace that is ready for the first run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.model import nano
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.workspace import Store

BUILT_IN = "echovlm-nano"


class InitSummary(BaseModel):
    """What the workspace now holds."""

    workspace: str
    champion: str


def init(
    config: ConfigOption = "sonoloop.toml",
    model_folder: Annotated[
        Path | None, typer.Option(help="A model of your own in the published EchoVLM layout.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a workspace ready: check access, publish the built-in model or yours, set the champion."""
    show(run_init(load_config(config), model_folder=model_folder), title="workspace ready", as_json=json)


def run_init(config: Config, *, model_folder: Path | None = None) -> InitSummary:
    """Check access and keys; give a model line without a champion its first one.

    Args:
        config: The configuration; ``[model] name`` is the line.
        model_folder: The first champion's files; the built-in model's when absent.

    Raises:
        ConfigError: no pseudonym key; the line has a champion already, or has none and none is given.
        CheckpointError: the folder is incomplete, or no EchoVLM.
        StorageError: workspace or archive cannot be reached.
    """
    pseudonym_key()
    workspace = config.open_workspace()
    config.open_archive()
    name = config.model.name
    aliases = registry.read_aliases(workspace, name)
    if aliases.champion is not None and model_folder is not None:
        raise ConfigError(f"model {name} has a champion already; give the new model another [model] name")
    if aliases.champion is None:
        version = _publish(workspace, name, model_folder)
        aliases = registry.set_aliases(workspace, name, {"champion": version}, expected=aliases, by="init")
    assert aliases.champion is not None
    return InitSummary(workspace=workspace.uri, champion=aliases.champion)


def _publish(workspace: Store, name: str, model_folder: Path | None) -> str:
    if model_folder is not None:
        from sonoloop.model.checkpoint import load_model
        from sonoloop.model.processor import EchoVLMProcessor

        load_model(model_folder, device="meta")  # checks every key and shape, holds no weight
        EchoVLMProcessor.from_folder(model_folder)
        return registry.publish(workspace, model_folder, name, lineage={"base": "published by init"})
    if name == BUILT_IN:
        return registry.publish(workspace, nano.folder(), name, lineage={"base": "built in"})
    raise ConfigError(f"model {name} has no champion; give its files with `sonoloop init --model-folder DIR`")
