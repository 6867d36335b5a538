"""The model registry: ``models/<name>/<version>/`` in the workspace, and aliases changed by conditional put.

A version is a Hugging Face folder with ``lineage.json`` and ``manifest.json`` (file name to SHA-256); its
version string is the hash of that manifest, so one set of weights has one name. A model version is written
``<name>/<version>``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import CheckpointError, ConfigError, ConflictError
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

Alias = Literal["champion", "challenger", "previous"]
_MANIFEST = "manifest.json"
_LINEAGE = "lineage.json"
_OURS = (_MANIFEST, _LINEAGE, "decision.json", "calibration.json")
"""Written beside a version by us, some of them after it was published: no part of what its name hashes."""


class ModelConfig(BaseModel):
    """Which model line drafts and answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(default="echovlm-nano", description="name in the registry")


class Aliases(BaseModel):
    """``models/<name>/aliases.json``: which version drafts, which wants to, which did before."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None


def publish(workspace: Store, folder: Path, name: str, *, lineage: Mapping[str, Any]) -> str:
    """Copy a model folder into the registry; the same weights again change nothing.

    Args:
        workspace: Where the registry lies.
        folder: Hugging Face layout, flat.
        name: Model name, for example ``echovlm-nano``.
        lineage: Where it came from; stored beside it as JSON.

    Returns:
        The model version, ``<name>/<version>``.

    Raises:
        CheckpointError: the folder is no model folder.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder.name} holds no config.json; expected a Hugging Face model folder")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in _OURS)
    manifest = {path.name: _sha256(path) for path in files}
    version = _version_of(manifest)
    place = ("models", name, version)
    if not workspace.exists(*place, _MANIFEST):
        for file_name in manifest:
            workspace.write_bytes((folder / file_name).read_bytes(), *place, file_name)
        workspace.write_bytes(json.dumps(lineage, indent=2).encode(), *place, _LINEAGE)
        workspace.write_bytes(json.dumps(manifest, indent=2).encode(), *place, _MANIFEST)
    return f"{name}/{version}"


def fetch(workspace: Store, model_version: str) -> Path:
    """The model's files on this machine, checked by hash; downloaded once per machine.

    Raises:
        ConfigError: the registry has no such version.
        CheckpointError: a file is missing or differs from its recorded hash.
    """
    name, _, version = model_version.partition("/")
    place = ("models", name, version)
    if not version or not workspace.exists(*place, _MANIFEST):
        raise ConfigError(f"no model {model_version} in {workspace.uri}; see `sonoloop status`")
    manifest = _read_manifest(workspace, place)
    target = _cache_root() / name / version
    if not target.is_dir():
        _download(workspace, place, manifest, target)
    return target


def read_aliases(workspace: Store, name: str) -> Aliases:
    """The aliases of one model; all ``None`` where there are none yet."""
    found = workspace.get_control("models", name, "aliases.json")
    return Aliases.model_validate_json(found[0]) if found else Aliases()


def resolve(workspace: Store, name: str, alias_or_version: str = "champion") -> str:
    """The model version behind an alias; a version string is returned as it is.

    Raises:
        ConfigError: the alias is not set.
    """
    if alias_or_version not in Aliases.model_fields:
        return alias_or_version if "/" in alias_or_version else f"{name}/{alias_or_version}"
    version: str | None = getattr(read_aliases(workspace, name), alias_or_version)
    if version is None:
        raise ConfigError(f"model {name} has no {alias_or_version}; run `sonoloop init` first")
    return version


def set_aliases(
    workspace: Store, name: str, changes: Mapping[Alias, str | None], *, expected: Aliases
) -> Aliases:
    """Change aliases if they still are what the caller decided upon.

    Raises:
        ConflictError: somebody changed them in between; nothing was written.
    """
    found = workspace.get_control("models", name, "aliases.json")
    current = Aliases.model_validate_json(found[0]) if found else Aliases()
    if current != expected:
        raise ConflictError(f"the aliases of {name} were changed by another writer; evaluate again")
    changed = current.model_copy(update={str(alias): version for alias, version in changes.items()})
    workspace.put_control(
        changed.model_dump_json(indent=2).encode(),
        "models",
        name,
        "aliases.json",
        version=found[1] if found else None,
    )
    return changed


def _cache_root() -> Path:
    """``SONOLOOP_CACHE_DIR`` (a node's fast local disk, say), else the user's cache folder."""
    own = os.environ.get("SONOLOOP_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own or f"{base}/sonoloop", "models")


def _version_of(manifest: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]


def _read_manifest(workspace: Store, place: tuple[str, str, str]) -> dict[str, str]:
    try:
        manifest: dict[str, str] = json.loads(workspace.read_bytes(*place, _MANIFEST))
        intact = _version_of(manifest) == place[-1] and all(Path(name).name == name for name in manifest)
    except ValueError:
        intact = False
    if not intact:
        raise CheckpointError(f"{'/'.join(place)}/{_MANIFEST} was altered; publish the model again")
    return manifest


def _download(workspace: Store, place: tuple[str, ...], manifest: dict[str, str], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as partial:
        for file_name, expected in manifest.items():
            path = Path(partial, file_name)
            try:
                path.write_bytes(workspace.read_bytes(*place, file_name))
            except FileNotFoundError as err:
                raise CheckpointError(f"{'/'.join(place)}/{file_name} is missing; publish it again") from err
            if _sha256(path) != expected:
                raise CheckpointError(
                    f"{'/'.join(place)}/{file_name} differs from its hash; publish it again"
                )
        complete = Path(partial, "complete")
        complete.mkdir()
        for file_name in manifest:
            shutil.move(Path(partial, file_name), complete / file_name)
        try:
            complete.rename(target)
        except OSError:
            if (
                not target.is_dir()
            ):  # another process of this machine may have been first; its files are the same
                raise


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
