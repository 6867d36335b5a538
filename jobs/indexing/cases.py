"""Stage 2: group instances into cases, and prepare the frames of those that are not up to date.

A shuffle in two steps: tasks read ranges of URIs and split them by case, tasks gather the parts of each
bucket of cases. No process ever holds more than a range or a bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import ray

from sonoloop.jobs.indexing.headers import IndexRun, known_files
from sonoloop.jobs.indexing.spread import spread
from sonoloop.jobs.progress import counted
from sonoloop.platform import logs
from sonoloop.platform.archive.frames import CaseMaker, MadeCase
from sonoloop.platform.archive.grouping import CaseFinder, CaseWork, Chunk, bucket_ranges, split_by_bucket
from sonoloop.platform.archive.nearduplicates import mark_near_duplicates
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.reading.pixels import quiet
from sonoloop.platform.errors import CountError
from sonoloop.platform.records import content_id
from sonoloop.platform.sorted_rooms import (
    CASES,
    FRAMES,
    INSTANCES,
    KeyRange,
    SortedFile,
    ranges_of,
    write_sorted,
)

ROWS_PER_BUCKET = 10_000
MAX_BUCKETS = 256
CASES_AT_ONCE = 4
MARKED = "duplicates/marked.parquet"


@dataclass
class CaseCounts:
    """What the workspace holds after stage 2, and what was made in it.

    ``cases`` and ``images`` count all cases that may be drafted, ``made`` those of this run, withdrawn ones
    among them. ``rejected`` counts objects of this run whose pixels were rejected, by reason in ``reasons``.
    ``newest`` is when the newest of all cases was made.
    """

    cases: int = 0
    images: int = 0
    made: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    newest: datetime | None = None

    def add(self, other: CaseCounts) -> None:
        """Count what another counted, too."""
        self.cases += other.cases
        self.images += other.images
        self.made += other.made
        self.rejected += other.rejected
        self.reasons.update(other.reasons)
        self.newest = max(filter(None, (self.newest, other.newest)), default=None)


def make_cases(run: IndexRun) -> Iterator[CaseCounts]:
    """Counts of each chunk of cases as it is done.

    Raises:
        StorageError: archive or workspace cannot be had.
        CountError: instances or cases in differ from those out; nothing of the chunk was written.
    """
    buckets, parts = _parts(run)
    case_files = known_files(run.workspace, CASES)
    sources = [(keys, case_files, *tables) for keys, tables in zip(buckets, parts, strict=True)]
    with counted("index: cases") as counter:
        yield from spread(sources, *_tasks(run, counter))


def _parts(run: IndexRun) -> tuple[list[KeyRange], list[list[ray.ObjectRef[pa.Table]]]]:
    """Buckets of cases, and for each its instances out of each range of URIs."""

    def plan(files: Sequence[SortedFile]) -> tuple[list[KeyRange], list[KeyRange]]:
        num_buckets = sum(file.num_rows for file in files) // ROWS_PER_BUCKET
        return ranges_of(files), bucket_ranges(max(1, min(MAX_BUCKETS, num_buckets)))

    def split(keys: KeyRange, files: Sequence[SortedFile]) -> Any:
        tables = split_by_bucket(run.workspace, files, keys, buckets)
        return tables if len(tables) > 1 else tables[0]

    files = known_files(run.workspace, INSTANCES)
    ranges, buckets = ray.get(ray.remote(num_cpus=1)(plan).remote(files))
    splitter = ray.remote(num_cpus=1, num_returns=len(buckets))(split)
    by_range = [splitter.remote(keys, files) for keys in ranges]
    return buckets, list(map(list, zip(*by_range, strict=True))) if len(buckets) > 1 else [by_range]


def _tasks(run: IndexRun, counter: Any) -> Any:
    def find(keys: KeyRange, case_files: Sequence[SortedFile], *parts: pa.Table) -> Iterator[Chunk]:
        instances = pa.concat_tables(parts).sort_by("case_id")
        finder = CaseFinder(run.workspace, case_files, run.config, run.releases, run.retry_rejected)
        for chunk in finder.chunks(instances, keys):
            counter.expect.remote(len(chunk.work))
            yield chunk

    def do(chunk: Chunk) -> CaseCounts:
        return make_chunk(run, chunk, counter)

    return find, do


def make_chunk(run: IndexRun, chunk: Chunk, counter: Any) -> CaseCounts:
    """Make the cases of a chunk, and write images, frames, cases, in this order."""
    counts = CaseCounts(chunk.kept_cases, chunk.kept_images, newest=chunk.newest)
    if not chunk.work:
        return counts
    logs.in_run(run.run_id)
    objects = ArchiveReader(run.archive, run.config)
    maker = CaseMaker(objects, run.workspace, run.config, run.now, run.releases, run.keeps)
    made: list[MadeCase] = []
    with quiet(), ThreadPoolExecutor(CASES_AT_ONCE) as pool:  # around the threads, as for headers
        for work, result in zip(chunk.work, pool.map(maker.make, chunk.work), strict=True):
            counts.add(_counted(run, work, result))
            counter.add.remote(1, int(result.case.withdrawn))
            made.append(result)
    name = f"{content_id(*(work.case_id for work in chunk.work), length=16)}.parquet"
    frames = [frame for result in made for frame in result.frames]
    write_sorted(run.workspace, FRAMES, frames, run.run_id, name)
    write_sorted(run.workspace, CASES, [result.case for result in made], run.run_id, name)
    return counts


def _counted(run: IndexRun, work: CaseWork, result: MadeCase) -> CaseCounts:
    """Counts of one case.

    Raises:
        CountError: an instance is both used and rejected, or neither and not spared by the budget.
    """
    rejected = {frame.instance_id: str(frame.reason) for frame in result.frames if frame.status == "rejected"}
    used = {image.instance_id for image in result.case.images}
    spared = set(result.spared)
    outcomes = [*rejected, *used, *spared]
    if sorted(outcomes) != sorted(row.instance_id for row in work.instances):
        raise CountError(
            f"case {work.case_id}: {len(work.instances)} instances went in, {len(outcomes)} came out; "
            "nothing of it was written"
        )
    reasons = [
        rejected[row.instance_id]
        for row in work.rows
        if row.indexed_at == run.now and row.instance_id in rejected
    ]
    num_cases = int(not result.case.withdrawn)
    return CaseCounts(num_cases, len(result.case.images), 1, len(reasons), Counter(reasons), run.now)


def mark_duplicates(run: IndexRun, newest: datetime | None) -> None:
    """Mark near-duplicates, in a task, unless they were marked after the newest case was made.

    Raises:
        StorageError: the workspace cannot be had.
    """
    marked_at = run.workspace.written_at(MARKED)
    if newest is not None and (marked_at is None or marked_at <= newest):
        ray.get(ray.remote(num_cpus=1)(mark_near_duplicates).remote(run.workspace))
