"""Listing an archive in parts that different tasks can list, whatever the order in which the store lists.

Parts are prefixes. Folders give them (listing with a delimiter); a folder too wide for that, or without any,
is split by the next character of its keys, found by listing one key after another with ``StartAfter``.
Nothing here relies on the order of keys: AWS lists by bytes, SeaweedFS folder by folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sonoloop.platform.archive.objects.faults import patiently
from sonoloop.platform.errors import RejectedError, StorageError
from sonoloop.platform.workspace import ObjectInfo, Store

OBJECTS_PER_PAGE = 1000
NUM_PARTS = 32
MAX_SPLITS = 64
LISTING_TRIES = 8
_LAST_CHARACTER = chr(0x10FFFF)


@dataclass(frozen=True)
class Prefix:
    """Keys that begin alike: all of them, those without a further slash, or the one key of that name."""

    start: str
    kind: Literal["all", "direct", "exact"] = "all"

    def answers(self, archive: Store) -> Iterator[Any]:
        """The store's pages of these keys."""
        if self.kind == "exact":
            yield next(_answers(archive, Prefix=self.start, MaxKeys=1))
            return
        delimiter = {"Delimiter": "/"} if self.kind == "direct" else {}
        yield from _answers(archive, Prefix=self.start, **delimiter)

    def holds(self, key: str) -> bool:
        """Whether a key of the answers is one of these; folder markers never are."""
        return not key.endswith("/") and (self.kind != "exact" or key == self.start)


@dataclass(frozen=True)
class ListingPart:
    """A part of an archive's listing."""

    archive: Store
    prefixes: tuple[Prefix, ...]

    def pages(self) -> Iterator[list[ObjectInfo]]:
        """The part's objects, a page at a time.

        Raises:
            StorageError: the store refuses or does not answer.
        """
        infos = itertools.chain.from_iterable(map(self._infos, self.prefixes))
        while page := list(itertools.islice(infos, OBJECTS_PER_PAGE)):
            yield page

    def _infos(self, prefix: Prefix) -> Iterator[ObjectInfo]:
        if not self.archive.is_s3:
            yield from self.archive.list_objects()
            return
        bucket, _ = self.archive.bucket_and_prefix
        for answer in prefix.answers(self.archive):
            for item in answer.get("Contents", []):
                if prefix.holds(item["Key"]):
                    yield ObjectInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))


def parts_of(archive: Store) -> list[ListingPart]:
    """Parts that make up the whole listing; one where all of it fits a page, or in a folder.

    Raises:
        StorageError: the store refuses or does not answer.
    """
    root = Prefix("")
    if not archive.is_s3:
        return [ListingPart(archive, (root,))]
    _, prefix = archive.bucket_and_prefix
    root = Prefix(f"{prefix}/" if prefix else "")
    if not next(_answers(archive, Prefix=root.start))["IsTruncated"]:
        return [ListingPart(archive, (root,))]
    prefixes = _split(archive, root)
    return [ListingPart(archive, tuple(prefixes[i::NUM_PARTS])) for i in range(min(NUM_PARTS, len(prefixes)))]


def _split(archive: Store, root: Prefix) -> list[Prefix]:
    """Prefixes that cover the root, breadth first, until there are enough of them."""
    waiting: list[Prefix] = [root]
    leaves: list[Prefix] = []
    for _ in range(MAX_SPLITS):
        if not waiting or len(waiting) + len(leaves) >= NUM_PARTS:
            break
        prefix = waiting.pop(0)
        answer = next(_answers(archive, Prefix=prefix.start, Delimiter="/"))
        folders = [item["Prefix"] for item in answer.get("CommonPrefixes", [])]
        if answer["IsTruncated"]:
            leaves.append(Prefix(prefix.start, "exact"))
            waiting += [Prefix(prefix.start + character) for character in _next_characters(archive, prefix)]
        elif folders:
            leaves.append(Prefix(prefix.start, "direct"))
            waiting += [Prefix(folder) for folder in folders]
        else:
            leaves.append(prefix)
    return leaves + waiting


def _next_characters(archive: Store, prefix: Prefix) -> Iterator[str]:
    """The characters that follow a prefix in some key, one request each."""
    probe: dict[str, Any] = {"Prefix": prefix.start, "MaxKeys": 2}
    while True:
        keys = [item["Key"] for item in next(_answers(archive, **probe)).get("Contents", [])]
        rests = [key.removeprefix(prefix.start) for key in keys if key != prefix.start]
        if not rests:
            return
        yield rests[0][0]
        probe["StartAfter"] = prefix.start + rests[0][0] + _LAST_CHARACTER


def _answers(archive: Store, **asked: Any) -> Iterator[Any]:
    """Pages of one listing; a refusal is the whole archive's, not an object's."""
    bucket, _ = archive.bucket_and_prefix
    asked.setdefault("MaxKeys", OBJECTS_PER_PAGE)
    while True:
        try:
            answer = patiently(
                lambda: archive.client.list_objects_v2(Bucket=bucket, **asked),
                tries=LISTING_TRIES,
                where=archive.uri,
            )
        except RejectedError as err:
            raise StorageError(f"{archive.uri} cannot be listed: {err.detail}") from err
        yield answer
        if not answer["IsTruncated"]:
            return
        asked["ContinuationToken"] = answer["NextContinuationToken"]
