"""``sonoloop init``: a workspace that is ready for the first run."""

from __future__ import annotations

from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.model import nano
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.identity import pseudonym_key

BUILT_IN = "echovlm-nano"


class InitSummary(BaseModel):
    """What the workspace now holds."""

    workspace: str
    champion: str


def init(config: ConfigOption = "sonoloop.toml", json: JsonOption = False) -> None:
    """Make a workspace ready: check access, publish the built-in model, set the champion."""
    show(run_init(load_config(config)), title="workspace ready", as_json=json)


def run_init(config: Config) -> InitSummary:
    """Check access and keys; give a model line without a champion its first one.

    Raises:
        ConfigError: no pseudonym key, or the configured model is neither built in nor published.
        StorageError: workspace or archive cannot be reached.
    """
    pseudonym_key()
    workspace = config.open_workspace()
    config.open_archive()
    name = config.model.name
    aliases = registry.read_aliases(workspace, name)
    if aliases.champion is None:
        if name != BUILT_IN:
            raise ConfigError(f"model {name} has no champion; publish it with `sonoloop init --model-folder`")
        version = registry.publish(workspace, nano.folder(), name, lineage={"base": "built in"})
        aliases = registry.set_aliases(workspace, name, {"champion": version}, expected=aliases)
    assert aliases.champion is not None
    return InitSummary(workspace=workspace.uri, champion=aliases.champion)
