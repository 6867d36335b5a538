"""Reading an object by ranges: a little ahead for headers, exactly for frames, and never unbounded."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

from sonoloop.platform.errors import Reason, RejectedError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_AHEAD = 64 * 1024
"""Bytes fetched at a time while a header is parsed; an ultrasound header is 2 to 30 kB."""


class RangedFile(io.BufferedReader):
    """A seekable file read in blocks, beside `read_at`, which reads one range and nothing around it.

    A length that a header claims is cut to what the file has, so that a claim of 4 GB allocates nothing.
    The file underneath stays open, and nobody else may rely on its position.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self._budget: int | None = None
        super().__init__(_Joined(file, [(0, self.size)]), READ_AHEAD)

    def limit_reading(self, num_bytes: int | None) -> None:
        """Refuse to read more than this in all from now on; ``None`` lifts the limit."""
        self._budget = num_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file's; raises `RejectedError` past the limit."""
        left = max(self.size - self.tell(), 0)
        size = left if size is None or size < 0 else min(size, left)
        if self._budget is not None:
            if size > self._budget:
                raise RejectedError(Reason.TOO_LARGE, "the header is larger than any ultrasound's")
            self._budget -= size
        return super().read(size)

    def read_at(self, start: int, length: int) -> bytes:
        """The bytes from ``start``, fewer where the file ends before."""
        self._file.seek(start)
        return self._file.read(max(min(length, self.size - start), 0))

    def joined(self, spans: Sequence[tuple[int, int]]) -> io.BufferedReader:
        """Parts of the file, each from a start to an end, as one file; reads nothing yet."""
        return io.BufferedReader(_Joined(self._file, spans), READ_AHEAD)


class _Joined(io.RawIOBase):
    """Parts of a file one behind the other; keeps its own position, so that several can share one file."""

    name = ""  # pydicom asks buffered readers for one

    def __init__(self, file: BinaryIO, spans: Sequence[tuple[int, int]]) -> None:
        self._file, self._spans, self._place = file, spans, 0
        self._ends = list(accumulate(end - start for start, end in spans))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._ends[-1]}[whence]
        if base + offset < 0:
            raise ValueError("a position before the file's start")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        part = bisect_right(self._ends, self._place)
        if part == len(self._spans):
            return 0
        end = self._spans[part][1]
        start = end - (self._ends[part] - self._place)
        self._file.seek(start)
        data = self._file.read(min(len(view), end - start))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)
