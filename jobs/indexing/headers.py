"""Stage 1: list the archive, and read the headers of what is new into ``instances/``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from pydantic import SecretStr

from sonoloop.jobs.indexing.listed import Listed
from sonoloop.jobs.indexing.spread import spread
from sonoloop.jobs.progress import counted
from sonoloop.platform import logs
from sonoloop.platform.archive.deidentify.quarantine import Keep, Release
from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.objects.listing import ListingPart, parts_of
from sonoloop.platform.archive.objects.manifest import ManifestPart, manifest_parts
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.pages import (
    HeaderCounts,
    PageIndexer,
    gone_pages,
    retryable_pages,
    uri_hashes,
)
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import CountError
from sonoloop.platform.sorted_rooms import INSTANCES, Room, SortedFile, files_of
from sonoloop.platform.workspace import ObjectInfo, Store

Source = ListingPart | ManifestPart | None
"""``None``: what was rejected before."""


@dataclass(frozen=True)
class IndexRun:
    """What the tasks of one run need to know."""

    archive: Store
    workspace: Store
    config: IndexConfig
    key: SecretStr
    now: datetime
    run_id: str
    releases: Mapping[str, Release] = field(default_factory=dict)
    retry_rejected: bool = False
    keeps: Mapping[str, Keep] = field(default_factory=dict)


def index_headers(run: IndexRun) -> Iterator[HeaderCounts]:
    """Counts of each page as it is done; then, where the whole archive was listed, of what is gone.

    Raises:
        StorageError: archive, manifest or workspace cannot be had.
        ConfigError: the manifest cannot be used.
        CountError: objects listed differ from objects that were looked at.
    """
    listed = Listed.remote()  # type: ignore[attr-defined]
    try:
        yield from _index(run, listed)
    finally:
        ray.kill(listed)


def _index(run: IndexRun, listed: Any) -> Iterator[HeaderCounts]:
    files = known_files(run.workspace, INSTANCES)
    num_objects = 0
    with counted("index: headers") as counter:
        find, do = _tasks(run, listed, counter)
        for counts in spread([(source,) for source in _sources(run)], find, do, files):
            num_objects += counts.objects
            yield counts
    num_listed = ray.get(listed.count.remote())
    if num_objects != num_listed:
        raise CountError(f"{num_listed} objects were listed, {num_objects} looked at; run the command again")
    if num_listed and not run.retry_rejected and run.config.manifest is None:
        yield from spread([(listed.all.remote(),)], *_gone_tasks(run), files)


def known_files(workspace: Store, room: Room) -> ray.ObjectRef[Sequence[SortedFile]]:
    """A room's files, found by a task and for tasks: thousands of footers leave memory behind."""
    found: ray.ObjectRef[Sequence[SortedFile]] = ray.remote(num_cpus=1)(files_of).remote(workspace, room)
    return found


def _sources(run: IndexRun) -> Sequence[Source]:
    if run.retry_rejected:
        return [None]
    if run.config.manifest is not None:
        return manifest_parts(run.config.manifest, run.archive)
    return parts_of(run.archive)


def _tasks(run: IndexRun, listed: Any, counter: Any) -> Any:
    def find(source: Source) -> Iterator[list[ObjectInfo]]:
        noted = []
        for page in retryable_pages(run.workspace) if source is None else source.pages():
            counter.expect.remote(len(page))
            noted.append(listed.add.remote(uri_hashes([info.uri for info in page])))
            yield page
        ray.get(noted)

    def do(page: list[ObjectInfo], files: Sequence[SortedFile]) -> HeaderCounts:
        def done(row: InstanceRecord) -> None:
            counter.add.remote(int(row.member is None), int(row.status == "rejected"))

        counts = _indexer(run, files).index(page, done)
        counter.add.remote(counts.unchanged, 0)
        return counts

    return find, do


def _gone_tasks(run: IndexRun) -> Any:
    def find(listed: NDArray[np.uint64]) -> Iterator[list[str]]:
        for uris in gone_pages(run.workspace, run.archive, listed):  # noqa: UP028 - Ray sends into `find`
            yield uris

    def do(uris: list[str], files: Sequence[SortedFile]) -> HeaderCounts:
        return _indexer(run, files).mark_gone(uris)

    return find, do


def _indexer(run: IndexRun, files: Sequence[SortedFile]) -> PageIndexer:
    logs.in_run(run.run_id)
    return PageIndexer(
        reader=HeaderReader(ArchiveReader(run.archive, run.config), run.key, run.now),
        workspace=run.workspace,
        files=files,
        run_id=run.run_id,
        at_once=run.config.requests_at_once,
        replay=run.retry_rejected,
    )
