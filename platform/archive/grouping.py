"""Stage 2, what is to do: instances grouped into cases, and which cases are not up to date.

Cases are spread over buckets by their id, a keyed hash: each bucket is a range of ids, as many as any other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from sonoloop.platform.archive.deidentify.clean import RULES_VERSION
from sonoloop.platform.archive.deidentify.quarantine import Release, release_of
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.records import CaseRecord, content_id
from sonoloop.platform.sorted_rooms import CASES, INSTANCES, KeyRange, SortedFile, newest
from sonoloop.platform.workspace import Store

CHUNKS_AT_LEAST = 8
_ID_BITS = 32


@dataclass(frozen=True)
class CaseWork:
    """A case to be made: its instances, and ``before``, the case as it was."""

    case_id: str
    inputs_hash: str
    rows: tuple[InstanceRecord, ...]
    before: CaseRecord | None = None

    @property
    def instances(self) -> list[InstanceRecord]:
        """The rows, an instance stored twice counted once, in the order of their URIs."""
        first: dict[str, InstanceRecord] = {}
        for row in self.rows:
            first.setdefault(row.instance_id, row)
        return list(first.values())

    def copies(self, instance_id: str) -> list[InstanceRecord]:
        """The rows of one instance."""
        return [row for row in self.rows if row.instance_id == instance_id]


@dataclass
class Chunk:
    """Cases to be made by one task; how many of the bucket stay as they are, and when the newest was made."""

    work: list[CaseWork]
    kept_cases: int = 0
    kept_images: int = 0
    newest: datetime | None = None


def bucket_ranges(num_buckets: int) -> list[KeyRange]:
    """Ranges of case ids, equally wide."""
    edges = [f"{(i << _ID_BITS) // num_buckets:08x}" for i in range(1, num_buckets)]
    return [KeyRange(low, high) for low, high in zip([None, *edges], [*edges, None], strict=True)]


def split_by_bucket(
    workspace: Store, files: Sequence[SortedFile], keys: KeyRange, buckets: Sequence[KeyRange]
) -> list[pa.Table]:
    """The indexed instances of a range of URIs, one table for each bucket of cases.

    Raises:
        StorageError: the workspace cannot be read.
    """
    table = newest(workspace, INSTANCES, files, keys)
    table = table.filter(pc.equal(table["status"], "indexed")).sort_by("case_id")
    ids = table["case_id"].to_pylist()
    edges = [len(ids) if keys.high is None else bisect_left(ids, keys.high) for keys in buckets]
    # taken, not sliced: a slice travels with the whole table's buffers
    return [table.take(pa.array(range(start, stop), pa.int64())) for start, stop in pairwise([0, *edges])]


@dataclass(frozen=True)
class CaseFinder:
    """Finds the cases that are not what their instances, the settings and people's releases ask for."""

    workspace: Store
    files: Sequence[SortedFile]
    config: IndexConfig
    releases: Mapping[str, Release] = field(default_factory=dict)
    retry_rejected: bool = False

    def chunks(self, instances: pa.Table, keys: KeyRange) -> Iterator[Chunk]:
        """The work of one bucket; the first chunk, possibly without work, counts what is kept.

        Args:
            instances: All indexed instances of the bucket.
            keys: The bucket's case ids.

        Raises:
            StorageError: the workspace cannot be read.
        """
        known = {
            row["case_id"]: CaseRecord.from_row(row)
            for row in newest(self.workspace, CASES, self.files, keys).to_pylist()
        }
        stale = list(self._stale(instances, known))
        touched = {work.case_id for work in stale}
        kept = [case for case in known.values() if case.case_id not in touched and not case.withdrawn]
        newest_case = max((case.indexed_at for case in known.values()), default=None)
        yield Chunk([], len(kept), sum(len(case.images) for case in kept), newest_case)
        weights = [min(len(work.rows), self.config.max_images) for work in stale]
        size = min(self.config.batch_size, -(-sum(weights) // CHUNKS_AT_LEAST))
        chunk, weight = Chunk([]), 0
        for work, more in zip(stale, weights, strict=True):
            if chunk.work and weight + more > size:
                yield chunk
                chunk, weight = Chunk([]), 0
            chunk.work.append(work)
            weight += more
        if chunk.work:
            yield chunk

    def _stale(self, instances: pa.Table, known: Mapping[str, CaseRecord]) -> Iterator[CaseWork]:
        settings = frame_settings(self.config)
        left = dict(known)
        for case_id, place, length in _runs(instances):
            rows = instances.slice(place, length)
            before = left.pop(case_id, None)
            versions = zip(rows["instance_id"].to_pylist(), rows["etag"].to_pylist(), strict=True)
            inputs_hash = inputs_hash_of(versions, settings, self.releases)
            if before is None or before.inputs_hash != inputs_hash or self._retries(before):
                records = tuple(InstanceRecord.from_row(row) for row in rows.sort_by("uri").to_pylist())
                yield CaseWork(case_id, inputs_hash, records, before)
        for case_id, before in left.items():
            if not before.withdrawn:
                yield CaseWork(case_id, content_id(settings), (), before)

    def _retries(self, before: CaseRecord) -> bool:
        return self.retry_rejected and before.num_retryable > 0


def inputs_hash_of(
    versions: Iterable[tuple[str, str]], settings: str, releases: Mapping[str, Release] = MappingProxyType({})
) -> str:
    """One hash over everything that a case is made from.

    Args:
        versions: Instance id and etag of each of its objects.
        settings: Of `frame_settings`.
        releases: What people let out, by instance.
    """
    found = []
    for instance_id, etag in versions:
        release = release_of(releases, instance_id, etag)
        decided = "" if release is None else release.model_dump_json()
        found.append(f"{instance_id}@{etag} {decided}")
    return content_id(*sorted(found), settings)


def frame_settings(config: IndexConfig) -> str:
    """What the settings and rules say about frames; a case made under others is made again."""
    settings = config.model_dump_json(include={"key_frames", "max_images", "deidentify"})
    return f"{settings} rules {RULES_VERSION}"


def _runs(instances: pa.Table) -> Iterator[tuple[str, int, int]]:
    """Case id, first row and number of rows of each case in a table that is sorted by case id."""
    runs = pc.run_end_encode(instances["case_id"].combine_chunks())
    start = 0
    for case_id, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield case_id, start, end - start
        start = end
