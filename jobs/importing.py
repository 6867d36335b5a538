"""``sonoloop import``: conversations that people have already, with their images, into ``imported/<name>/``.

A snapshot takes a set in when ``snapshot.imported`` names it.
"""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import ray
import typer
from pydantic import BaseModel, Field

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.progress import counted
from sonoloop.jobs.runs import ray_session, stage
from sonoloop.platform.archive.deidentify.clean import RULES_VERSION
from sonoloop.platform.conversations import identifying
from sonoloop.platform.conversations.chunks import REJECTIONS, ROOM, ChunkImporter, ImportCounts
from sonoloop.platform.conversations.files import RawEntry, file_digest, read_chunks
from sonoloop.platform.errors import ConfigError, ConflictError, CountError, NothingToDoError
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.records import content_id
from sonoloop.platform.workspace import Store, store_of

ENTRIES_PER_CHUNK = 64
"""What one task takes, and what a killed one loses: about a minute, most of it looking for text."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class ImportSummary(BaseModel):
    """What was imported; ``entries`` = ``taken`` + ``rejected``."""

    name: str
    entries: int
    taken: int
    rejected: int
    rejected_by_reason: dict[str, int]
    new_rows: int = Field(description="rows, of both kinds, that were not there before")


def import_conversations(
    file: Annotated[Path, typer.Argument(help="JSON list, or JSON lines, of conversations.")],
    images: Annotated[str, typer.Option(help="Folder or s3:// prefix that image paths are below.")],
    name: Annotated[str, typer.Option(help="What the set is called in snapshot.imported.")],
    config: ConfigOption = "sonoloop.toml",
    json: JsonOption = False,
) -> None:
    """Bring in conversations that people have, their images de-identified, to be learned from."""
    show(run_import(load_config(config), file, images=images, name=name), title="import", as_json=json)


def run_import(config: Config, file: Path, *, images: str, name: str) -> ImportSummary:
    """Import a file; the same call again changes nothing, but for images that are there now.

    Args:
        config: The configuration; ``index.deidentify`` says how pixels are cleaned.
        file: JSON list or JSON lines; both formats of `sonoloop.platform.conversations.formats`.
        images: Folder or ``s3://`` prefix; on a cluster every node must be able to read it.
        name: Of the set; belongs to this file from now on.

    Raises:
        ConfigError: the file or the name cannot be used, or the set is of another file.
        NothingToDoError: no entry, or none that could be taken.
        StorageError: images or workspace cannot be had.
        CountError: entries in differ from those taken and rejected.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name must match {_NAME.pattern}, got {name!r}")
    key, workspace, root = pseudonym_key(), config.open_workspace(), store_of(images, config.s3)
    root.check()
    _claim_name(workspace, name, file, config)
    importer = ChunkImporter(workspace, root, config.index, key, name, datetime.now(UTC))
    total = ImportCounts()
    with ray_session(config.ray), stage("import") as counts, counted("import") as counter:
        for found in _spread(importer, read_chunks(file, ENTRIES_PER_CHUNK), counter):
            total.add(found)
        counts.update(entries=total.entries, taken=total.taken)
    return _summary(name, total)


def _claim_name(workspace: Store, name: str, file: Path, config: Config) -> None:
    """Tie the name to the file and to how pixels and texts are searched, unless it is tied to others.

    Raises:
        ConfigError: it is.
    """
    settings = config.index.deidentify.model_dump_json()
    rules = f"rules {RULES_VERSION}, {identifying.RULES_VERSION}"
    made_of = content_id(file_digest(file), settings, rules)
    place = (ROOM, name, "import.json")
    known = workspace.get_control(*place)
    if known is None:
        try:
            workspace.put_control(jsonlib.dumps({"made_of": made_of}).encode(), *place, version=None)
        except ConflictError:
            known = workspace.get_control(*place)
    if known is not None and jsonlib.loads(known[0])["made_of"] != made_of:
        raise ConfigError(
            f"the imported set {name} is of another file, or was searched for patient data otherwise; choose "
            "another --name"
        )


def _spread(
    importer: ChunkImporter, chunks: Iterable[list[RawEntry]], counter: Any
) -> Iterator[ImportCounts]:
    """Import chunks in tasks, twice as many under way as there are CPUs."""

    def do(chunk: list[RawEntry]) -> ImportCounts:
        found = importer.import_chunk(chunk)
        counter.add.remote(found.entries, found.reasons.total())
        return found

    task = ray.remote(num_cpus=1)(do)
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    doing: list[Any] = []
    for chunk in chunks:
        counter.expect.remote(len(chunk))
        if len(doing) == most:
            (done,), doing = ray.wait(doing, num_returns=1)
            yield ray.get(done)
        doing.append(task.remote(chunk))
    yield from map(ray.get, doing)


def _summary(name: str, total: ImportCounts) -> ImportSummary:
    if total.entries != total.taken + total.reasons.total():
        raise CountError(
            f"{total.entries} entries went in, {total.taken} were taken and {total.reasons.total()} rejected"
        )
    if not total.entries:
        raise NothingToDoError("the file holds no entry; name a JSON list or JSON lines of conversations")
    if not total.taken:
        raise NothingToDoError(
            f"no entry could be taken: {dict(total.reasons)}; see {ROOM}/{name}/{REJECTIONS}/"
        )
    return ImportSummary(
        name=name,
        entries=total.entries,
        taken=total.taken,
        rejected=total.reasons.total(),
        rejected_by_reason=dict(sorted(total.reasons.items())),
        new_rows=total.written,
    )
