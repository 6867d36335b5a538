"""Versions whose weights were given up: everything that says where they came from and what they did stays."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import ConflictError
from sonoloop.platform.registry.aliases import read_aliases
from sonoloop.platform.registry.contents import WEIGHTS
from sonoloop.platform.registry.names import RETIRED, place_of
from sonoloop.platform.registry.reading import parsed
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store


class Retired(BaseModel):
    """``models/<name>/<version>/retired.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: datetime
    reason: str
    files: tuple[str, ...] = Field(description="of weights, that were there")
    num_bytes: int = Field(description="of these files")


def read_retired(workspace: Store, model_version: str) -> Retired | None:
    """When and why a version's weights were given up; ``None`` where they were not.

    Raises:
        StorageError: the store refuses, or the file is not one of this version of sonoloop.
    """
    place = (*place_of(model_version), RETIRED)
    try:
        data = workspace.read_bytes(*place)
    except FileNotFoundError:
        return None
    return parsed(Retired, data, workspace.uri_of(*place))


def weights_left(workspace: Store, model_version: str) -> dict[str, int]:
    """The weight files of a version that lie in the workspace: name to size in bytes.

    Raises:
        StorageError: the store refuses.
    """
    selector = pafs.FileSelector(workspace.path(*place_of(model_version)), allow_not_found=True)
    with storage_errors(workspace.uri):
        found = workspace.fs.get_file_info(selector)
    return {info.base_name: info.size for info in found if info.is_file and info.base_name.endswith(WEIGHTS)}


def retire(workspace: Store, model_version: str, *, reason: str) -> int:
    """Give up a version's weights; returns the bytes freed.

    The mark is written first: a process that dies in between leaves a version that nobody fetches, and the
    same call again removes the rest.

    Raises:
        ConflictError: an alias names the version; it stays.
        StorageError: the store refuses.
    """
    place, weights = place_of(model_version), weights_left(workspace, model_version)
    if read_retired(workspace, model_version) is None:
        mark = Retired(
            at=datetime.now(UTC), reason=reason, files=tuple(weights), num_bytes=sum(weights.values())
        )
        workspace.write_bytes(mark.model_dump_json(indent=2).encode(), *place, RETIRED)
    if model_version in read_aliases(workspace, place[1]).model_dump().values():  # perhaps only just now
        workspace.remove(*place, RETIRED)
        raise ConflictError(f"{model_version} is named by an alias; its weights stay")
    workspace.remove_paths(workspace.path(*place, name) for name in weights)
    return sum(weights.values())
