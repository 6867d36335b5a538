"""Versions of models: published once, fetched to this machine, each proven by hash.

The manifest is written last, so a version whose publishing was cut off is none; publishing it again goes on
with it, and mends one that was damaged. Everything but ``lineage.json`` is the same whoever publishes it, so
that those who do at once do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sonoloop.platform.errors import CheckpointError, ConfigError, ConflictError
from sonoloop.platform.registry.beside import read_lineage
from sonoloop.platform.registry.cache import local_copy
from sonoloop.platform.registry.card import write_card
from sonoloop.platform.registry.contents import check_names, files_of_model
from sonoloop.platform.registry.names import CARD, LINEAGE, MANIFEST, RETIRED, ROOM, place_of
from sonoloop.platform.registry.retiring import read_retired
from sonoloop.platform.transfer import FILES_AT_ONCE, file_digest, stored_digest, upload
from sonoloop.platform.workspace import Store


def publish(workspace: Store, folder: Path, name: str, *, lineage: Mapping[str, Any]) -> str:
    """Copy a model folder into the registry; the same weights again change nothing.

    Files that are there and right are not sent again. A model card that the folder brings is kept; otherwise
    one is written. A version that was retired is there again.

    Args:
        workspace: Where the registry lies.
        folder: Hugging Face layout, flat: safetensors and no code.
        name: Model name, for example ``echovlm-nano``.
        lineage: Where it came from; stored beside it as JSON, with the time as ``published_at``. Of several
            who publish the same weights, the first one's counts.

    Returns:
        The model version, ``<name>/<version>``.

    Raises:
        CheckpointError: the folder is no model folder, or holds what is not let in.
        StorageError: the store refuses.
    """
    manifest = {path.name: file_digest(path) for path in files_of_model(folder)}
    version = _version_of(manifest)
    place = (ROOM, name, version)
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        sent = [
            pool.submit(_send, workspace, folder / file_name, expected, (*place, file_name))
            for file_name, expected in manifest.items()
        ]
        for one in sent:
            one.result()
    _write_once(workspace, {**lineage, "published_at": datetime.now(UTC).isoformat()}, (*place, LINEAGE))
    if (folder / CARD).is_file() and not workspace.exists(*place, CARD):
        upload(folder / CARD, workspace, *place, CARD)
    write_card(workspace, f"{name}/{version}")
    text = json.dumps(manifest, indent=2).encode()
    if not workspace.exists(*place, MANIFEST) or workspace.read_bytes(*place, MANIFEST) != text:
        workspace.write_bytes(text, *place, MANIFEST)
    if workspace.exists(*place, RETIRED):
        workspace.remove(*place, RETIRED)
    return f"{name}/{version}"


def fetch(workspace: Store, model_version: str) -> Path:
    """The model's files on this machine, checked by hash; downloaded once per machine.

    A copy that was altered on this machine since is fetched again.

    Raises:
        ConfigError: the registry has no such version, or its weights were retired.
        CheckpointError: a file is missing, differs from its recorded hash, or is not let in.
        StorageError: the store refuses, or this machine's disk is full.
    """
    manifest = read_manifest(workspace, model_version)
    if (retired := read_retired(workspace, model_version)) is not None:
        raise ConfigError(
            f"the weights of {model_version} were retired on {retired.at:%Y-%m-%d} ({retired.reason}); "
            "publish the same weights again, or name another version"
        )
    check_names(model_version, manifest)
    return local_copy(workspace, place_of(model_version), manifest)


def check_available(workspace: Store, model_version: str) -> None:
    """Prove, without reading them, that a version's files are there.

    Raises:
        ConfigError: the registry has no such version, or its weights were retired.
        CheckpointError: a file is missing, or the manifest was altered.
    """
    place, manifest = place_of(model_version), read_manifest(workspace, model_version)
    if (retired := read_retired(workspace, model_version)) is not None:
        raise ConfigError(f"the weights of {model_version} were retired on {retired.at:%Y-%m-%d}")
    if missing := [name for name in manifest if not workspace.exists(*place, name)]:
        raise CheckpointError(f"{'/'.join(place)}/{missing[0]} is missing; publish the model again")


def is_version(workspace: Store, model_version: str) -> bool:
    """Whether the registry has, or had, such a version."""
    return workspace.exists(*place_of(model_version), LINEAGE)


def model_versions(workspace: Store, name: str | None = None) -> list[str]:
    """All versions of a model line, or of all lines, the oldest first; retired ones too.

    Raises:
        StorageError: the store refuses.
    """
    names = workspace.folders(ROOM) if name is None else [name]
    places = [(ROOM, one, version) for one in names for version in workspace.folders(ROOM, one)]
    published = {"/".join(place[1:]): _published_at(workspace, place) for place in places}
    known = [(at, version) for version, at in published.items() if at is not None]
    return [version for _, version in sorted(known)]


def read_manifest(workspace: Store, model_version: str) -> dict[str, str]:
    """File name to SHA-256 of a version.

    Raises:
        ConfigError: the registry has no such version.
        CheckpointError: the manifest is not what the version's name says.
    """
    place = place_of(model_version)
    try:
        text = workspace.read_bytes(*place, MANIFEST)
    except FileNotFoundError:
        raise ConfigError(f"no model {model_version} in {workspace.uri}; see `sonoloop status`") from None
    try:
        manifest: dict[str, str] = json.loads(text)
        intact = _version_of(manifest) == place[-1] and all(Path(name).name == name for name in manifest)
    except ValueError:
        intact = False
    if not intact:
        raise CheckpointError(f"{'/'.join(place)}/{MANIFEST} was altered; publish the model again")
    return manifest


def _send(workspace: Store, source: Path, expected: str, parts: tuple[str, ...]) -> None:
    if stored_digest(workspace, *parts) != expected:
        upload(source, workspace, *parts)


def _write_once(workspace: Store, value: Mapping[str, Any], parts: tuple[str, ...]) -> None:
    with suppress(ConflictError):  # it is there
        workspace.put_control(json.dumps(value, indent=2).encode(), *parts, version=None)


def _version_of(manifest: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]


def _published_at(workspace: Store, place: tuple[str, str, str]) -> datetime | None:
    """By its lineage; of older versions, by when that was written; ``None`` of what is no version."""
    told = read_lineage(workspace, "/".join(place[1:])).get("published_at")
    return datetime.fromisoformat(told) if told else workspace.written_at(*place, LINEAGE)
