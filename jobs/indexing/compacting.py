"""The many small files of a room into few, at the end of an index: whoever reads the room pays by the file.

A range of keys is put together by one task into one sorted file, of the rows that count. The old files go
when all ranges are written, so that at any moment each row stands somewhere; one that stands twice counts
once.
"""

from __future__ import annotations

from collections.abc import Sequence

import ray

from sonoloop.platform.records import content_id
from sonoloop.platform.sorted_rooms import KeyRange, Room, SortedFile, files_of, newest, ranges_of
from sonoloop.platform.workspace import Store

FILES_PER_RANGE = 64
"""Files for each range of keys from which putting them together is worth its writing."""


def compact(workspace: Store, room: Room) -> int:
    """Put the files of a room together where there are many for its rows; returns how many are left.

    Rows that newer ones replaced are dropped: only for rooms whose past nobody asks for.

    Raises:
        StorageError: the store refuses.
    """
    files = files_of(workspace, room)
    ranges = ranges_of(files)
    if len(files) < FILES_PER_RANGE * len(ranges):
        return len(files)
    task = ray.remote(num_cpus=1)(_put_together)
    shared = ray.put(files)
    written = set(ray.get([task.remote(workspace, room, keys, shared) for keys in ranges]))
    workspace.remove_paths(file.path for file in files if file.path not in written)
    return len(written)


def _put_together(workspace: Store, room: Room, keys: KeyRange, files: Sequence[SortedFile]) -> str:
    """Write a range as one file, named by what it is made of; returns its path."""
    rows = newest(workspace, room, files, keys)
    sources = sorted(file.path for file in files if file.reaches(keys))
    name = f"compacted-{content_id(str(keys), *sources, length=16)}.parquet"
    workspace.write_table(rows, room.name, name)
    return workspace.path(room.name, name)
