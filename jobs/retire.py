"""``sonoloop retire``: give up the weights of old versions, and the checkpoints of trainings that are over.

What tells where a model came from and what it did stays for ever: lineage, manifest, card, evaluations,
decision, the runs' own files.
"""

from __future__ import annotations

from typing import Annotated

import pyarrow.fs as pafs
import typer
from pydantic import BaseModel, Field

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, progress, show
from sonoloop.jobs.retiring import needed_versions
from sonoloop.jobs.runs import read_runs
from sonoloop.platform import registry
from sonoloop.platform.errors import ConflictError
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store


class RetireSummary(BaseModel):
    """What was given up, or would be."""

    model: str
    retired: dict[str, int] = Field(description="version to the bytes of its weights")
    kept: dict[str, str] = Field(description="version to why its weights stay")
    checkpoints: dict[str, int] = Field(description="run to the bytes of its checkpoints")
    freed_bytes: int
    freed: str
    dry_run: bool


def retire(
    keep: Annotated[int, typer.Option(min=1, help="So many of the newest versions keep their weights.")],
    config: ConfigOption = "sonoloop.toml",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: JsonOption = False,
) -> None:
    """Give up the weights of old versions and old training checkpoints; their history stays."""
    summary = run_retire(load_config(config), keep=keep, dry_run=dry_run)
    show(summary, title="retire: dry run" if dry_run else "retire", as_json=json)


def run_retire(config: Config, *, keep: int, dry_run: bool = False) -> RetireSummary:
    """Retire what is neither among the newest nor needed; see `needed_versions`.

    Args:
        config: ``[model] name`` is the line.
        keep: How many of its newest versions stay, from 1.
        dry_run: Whether to leave everything as it is.

    Raises:
        StorageError: the workspace cannot be reached, or refuses.
    """
    workspace, name = config.open_workspace(), config.model.name
    kept = needed_versions(workspace, name, keep=keep)
    retired: dict[str, int] = {}
    for version in registry.model_versions(workspace, name):
        if version in kept or not (weights := registry.weights_left(workspace, version)):
            continue
        try:
            retired[version] = (
                sum(weights.values())
                if dry_run
                else registry.retire(workspace, version, reason=f"sonoloop retire --keep {keep}")
            )
        except ConflictError:
            kept[version] = "named by an alias meanwhile"
            progress.print(f"retire: {version} was named by an alias meanwhile; it stays")
    checkpoints = dict(_checkpoints(workspace, dry_run=dry_run))
    freed = sum(retired.values()) + sum(checkpoints.values())
    return RetireSummary(
        model=name,
        retired=retired,
        kept=kept,
        checkpoints=checkpoints,
        freed_bytes=freed,
        freed=_in_words(freed),
        dry_run=dry_run,
    )


def _checkpoints(workspace: Store, *, dry_run: bool) -> list[tuple[str, int]]:
    """Remove Ray Train's checkpoints of trainings that nobody goes on with; run and bytes."""
    found = []
    for run in read_runs(workspace):
        if run.verb != "finetune" or run.state == "running":
            continue
        folder = ("runs", run.run_id, "train")
        names = [name for name in workspace.folders(*folder) if name.startswith("checkpoint_")]
        size = sum(_size(workspace, *folder, name) for name in names)
        for name in () if dry_run else names:
            workspace.remove_folder(*folder, name)
        if names:
            found.append((run.run_id, size))
    return found


def _size(workspace: Store, *folder: str) -> int:
    selector = pafs.FileSelector(workspace.path(*folder), recursive=True, allow_not_found=True)
    with storage_errors(workspace.uri):
        return sum(info.size for info in workspace.fs.get_file_info(selector) if info.is_file)


def _in_words(num_bytes: int) -> str:
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"
