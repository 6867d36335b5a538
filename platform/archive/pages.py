"""Stage 1, headers: a page of the listing against what is known, and what is new into ``instances/``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.objects.listing import OBJECTS_PER_PAGE
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.errors import CountError
from sonoloop.platform.records import content_id
from sonoloop.platform.sorted_rooms import INSTANCES, KeyRange, SortedFile, newest, stream, write_sorted
from sonoloop.platform.workspace import ObjectInfo, Store

T = TypeVar("T")


@dataclass
class HeaderCounts:
    """What became of objects in stage 1.

    ``objects`` + ``members`` = ``unchanged`` + ``indexed`` + ``rejected`` + ``containers``.
    """

    objects: int = 0
    members: int = 0
    unchanged: int = 0
    containers: int = 0
    indexed: int = 0
    rejected: int = 0
    gone: int = 0
    bytes_read: int = 0
    requests: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: HeaderCounts) -> None:
        """Count what another counted, too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class PageIndexer:
    """Indexes pages of objects into the instances of one run.

    ``files`` are all files of ``instances/`` before the run; with ``replay``, what is known does not matter.
    """

    reader: HeaderReader
    workspace: Store
    files: Sequence[SortedFile]
    run_id: str
    at_once: int
    replay: bool = False

    def index(self, page: Sequence[ObjectInfo], done: Callable[[InstanceRecord], None]) -> HeaderCounts:
        """Open what is new or changed, and write its rows.

        Raises:
            StorageError: archive or workspace cannot be had.
            CountError: objects in differ from rows out; nothing was written.
        """
        known = self._newest([info.uri for info in page], ("etag", "status", "size_bytes"))
        before = {row["uri"]: row for row in known.to_pylist() if row["status"] != "gone"}
        fresh = [info for info in page if self.replay or _is_fresh(info, before.get(info.uri))]
        rows = self.reader.read_all(fresh, at_once=self.at_once, done=done)
        if sorted(row.uri for row in rows if row.member is None) != sorted(info.uri for info in fresh):
            raise CountError(f"{len(fresh)} objects went in, {len(rows)} rows came out; nothing was written")
        rows = [_with_version(row, before.get(row.uri)) for row in rows]
        opened = [info.uri for info in fresh if before.get(info.uri, {}).get("status") == "container"]
        lost = self._lost_members(opened, {row.uri for row in rows})
        self._write([*rows, *lost])
        return _counted(rows, objects=len(page), unchanged=len(page) - len(fresh), gone=len(lost))

    def mark_gone(self, uris: Sequence[str]) -> HeaderCounts:
        """Write that objects are in the archive no more."""
        rows = [self._gone(row) for row in self._newest(uris).to_pylist()]
        self._write(rows)
        return HeaderCounts(gone=len(rows))

    def _lost_members(self, containers: Sequence[str], found: set[str]) -> list[InstanceRecord]:
        """Members that a zip or tar held before it changed."""
        lost = []
        for uri in containers:
            keys = KeyRange(f"{uri}!/", f"{uri}!0")
            for row in newest(self.workspace, INSTANCES, self.files, keys).to_pylist():
                if row["member"] is not None and row["status"] != "gone" and row["uri"] not in found:
                    lost.append(self._gone(row))
        return lost

    def _gone(self, row: dict[str, Any]) -> InstanceRecord:
        return InstanceRecord.from_row({**row, "status": "gone", "indexed_at": self.reader.now})

    def _newest(self, uris: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of these URIs; read as one range, which is narrow where the listing is sorted."""
        keys = KeyRange(min(uris), max(uris) + "\0")
        found = newest(self.workspace, INSTANCES, self.files, keys, columns=columns)
        return found.filter(pc.is_in(found["uri"], pa.array(uris, pa.string())))

    def _write(self, rows: Sequence[InstanceRecord]) -> None:
        if rows:
            name = content_id(*(f"{row.uri}@{row.etag}" for row in rows), length=16)
            write_sorted(self.workspace, INSTANCES, rows, self.run_id, f"{name}.parquet")


def _counted(rows: Sequence[InstanceRecord], **others: int) -> HeaderCounts:
    by_status = Counter(row.status for row in rows)
    return HeaderCounts(
        members=sum(row.member is not None for row in rows),
        indexed=by_status["indexed"],
        rejected=by_status["rejected"],
        containers=by_status["container"],
        bytes_read=sum(row.bytes_read for row in rows),
        requests=sum(row.requests for row in rows),
        reasons=Counter(str(row.reason) for row in rows if row.status == "rejected"),
        **others,
    )


def _is_fresh(info: ObjectInfo, row: dict[str, Any] | None) -> bool:
    """Whether an object is new or changed; one whose version a manifest does not name is taken as it was."""
    return row is None or info.etag not in ("", row["etag"])


def _with_version(row: InstanceRecord, before: dict[str, Any] | None) -> InstanceRecord:
    """A replay that could not even open the object keeps the version that was tried before."""
    if row.etag or before is None:
        return row
    return row.model_copy(update={"etag": before["etag"], "size_bytes": before["size_bytes"]})


def retryable_pages(workspace: Store) -> Iterator[list[ObjectInfo]]:
    """Objects that were rejected, or a member of theirs, for what may have passed; of any version by now."""
    for table in stream(workspace, INSTANCES, columns=("status", "retryable", "member")):
        chosen = table.filter(pc.and_(pc.equal(table["status"], "rejected"), table["retryable"]))
        uris = dict.fromkeys(map(_object_uri, chosen["uri"].to_pylist(), chosen["member"].to_pylist()))
        yield from _pages([ObjectInfo(uri, -1, "") for uri in uris])


def gone_pages(workspace: Store, archive: Store, listed: NDArray[np.uint64]) -> Iterator[list[str]]:
    """URIs of the archive that are known but were not listed.

    Args:
        workspace: Where ``instances/`` is.
        archive: The archive; rows of other places are left alone.
        listed: `uri_hashes` of all that was listed, sorted.
    """
    for table in stream(workspace, INSTANCES, columns=("status", "member")):
        here = pc.starts_with(table["uri"], archive.uri_of() + "/")
        known = table.filter(pc.and_(here, pc.not_equal(table["status"], "gone")))
        uris = known["uri"].to_pylist()
        objects = list(map(_object_uri, uris, known["member"].to_pylist()))
        yield from _pages([uris[place] for place in np.flatnonzero(~np.isin(uri_hashes(objects), listed))])


def _object_uri(uri: str, member: str | None) -> str:
    return uri if member is None else uri.removesuffix(f"!/{member}")


def _pages(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), OBJECTS_PER_PAGE):
        yield items[start : start + OBJECTS_PER_PAGE]


def uri_hashes(uris: Sequence[str]) -> NDArray[np.uint64]:
    """64 bits for each URI: 8 MB hold a million objects; two of a million collide once in 37 million runs."""
    digests = (hashlib.blake2b(uri.encode(), digest_size=8).digest() for uri in uris)
    return np.frombuffer(b"".join(digests), np.uint64)
