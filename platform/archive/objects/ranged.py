"""An object as a seekable file of which only what is read is fetched, in few and generous ranges."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.workspace import ObjectInfo

FIRST_BYTES = 2**16
"""The first range. Ultrasound headers take 2 to 40 KiB; the answer's latency outweighs the rest."""
LARGEST_AHEAD = 2**22
KEPT_BYTES = 2**25


class Source(Protocol):
    """Where a file's bytes come from."""

    info: ObjectInfo
    """The object as far as it is known."""

    @property
    def size_bytes(self) -> int:
        """Size of the object; may take a request."""

    def fetch(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to, and without, ``stop``; one request."""


class Objects(Protocol):
    """What opens objects: those of an archive, or those of one request."""

    def name_of(self, uri: str) -> str:
        """An object's key below the archive's root."""

    def open(self, info: ObjectInfo) -> ObjectFile:
        """The object as a file."""


class ObjectFile(io.BufferedIOBase):
    """Reads a `Source`. A miss fetches what was asked and some more: twice as much each time that reading
    goes straight on, little after a jump. The last ranges are kept.

    ``fault`` is the error that a fetch raised: readers of formats may take it for one of their own.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._place = 0
        self._ahead = FIRST_BYTES
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.bytes_read = 0
        self.requests = 0
        self.fault: Exception | None = None

    @property
    def info(self) -> ObjectInfo:
        """The object as far as it is known by now: its version and size may come with the first range."""
        return self._source.info

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place, bytes from the start."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; past the end is allowed and reads nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place}.get(whence)
        target = (self._size() if base is None else base) + offset
        if target < 0:
            raise ValueError(f"expected a place from 0 on, got {target}")
        self._place = target
        return target

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to ``size`` bytes, fewer only at the end; all that is left where negative or ``None``."""
        stop = self._size() if size is None or size < 0 else min(self._place + size, self._size())
        pieces = []
        while self._place < stop:
            start, data = self._range_with(self._place, stop)
            piece = data[self._place - start : stop - start]
            pieces.append(piece)
            self._place += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, size: int = -1, /) -> bytes:
        """As `read`."""
        return self.read(size)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """As `read`, into a buffer; returns the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _size(self) -> int:
        try:
            return self._source.size_bytes
        except Exception as err:
            self.fault = err
            raise

    def _range_with(self, place: int, stop: int) -> tuple[int, bytes]:
        """A kept or fetched range that holds the byte at ``place``."""
        for start, data in reversed(self._kept.items()):
            if start <= place < start + len(data):
                self._kept.move_to_end(start)
                return start, data
        return place, self._fetch(place, stop)

    def _fetch(self, place: int, stop: int) -> bytes:
        goes_on = any(start + len(data) == place for start, data in self._kept.items())
        self._ahead = min(2 * self._ahead, LARGEST_AHEAD) if goes_on else FIRST_BYTES
        stop = max(stop, place + self._ahead)
        if self._size() - stop < FIRST_BYTES:
            stop = self._size()
        try:
            data = self._source.fetch(place, stop)
            if not data:
                raise RejectedError(Reason.STORAGE, "the object ends before its size", retryable=True)
        except Exception as err:
            self.fault = err
            raise
        self.bytes_read += len(data)
        self.requests += 1
        self._kept[place] = data
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return data


@contextmanager
def store_faults(file: ObjectFile) -> Iterator[None]:
    """A fault of the store is one even where a reader took it for a broken file.

    Raises:
        RejectedError: the object, or the store for this object.
        StorageError: the store, for all objects.
    """
    file.fault = None
    try:
        yield
    except RejectedError:
        if file.fault is not None:
            raise file.fault from None
        raise
