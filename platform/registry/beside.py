"""The JSON files beside a version, read leniently: others write them, and these may grow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow.fs as pafs

from sonoloop.platform.registry.names import EVALUATIONS, LINEAGE, place_of
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store


def read_object(workspace: Store, *parts: str) -> dict[str, Any]:
    """A JSON object; empty where there is none, or something else."""
    try:
        found = json.loads(workspace.read_bytes(*parts))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_lineage(workspace: Store, model_version: str) -> dict[str, Any]:
    """Where a version came from; empty where nothing is known."""
    return read_object(workspace, *place_of(model_version), LINEAGE)


def base_of(lineage: Mapping[str, Any]) -> str | None:
    """The version that one was made from, or words that say where its line begins; ``None`` if not told."""
    found = lineage.get("base") or lineage.get("upcycled_from")
    return None if found is None else str(found)


def read_evaluations(workspace: Store, model_version: str) -> dict[str, dict[str, Any]]:
    """What was measured of a version, by what it was measured on.

    Raises:
        StorageError: the store refuses.
    """
    place = (*place_of(model_version), EVALUATIONS)
    selector = pafs.FileSelector(workspace.path(*place), recursive=True, allow_not_found=True)
    with storage_errors(workspace.uri):
        found = [info.path for info in workspace.fs.get_file_info(selector) if info.extension == "json"]
    names = sorted(path.removeprefix(workspace.path(*place) + "/") for path in found)
    return {name.removesuffix(".json"): read_object(workspace, *place, name) for name in names}
