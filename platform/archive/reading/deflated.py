"""Objects in Deflated Explicit VR Little Endian, inflated within a bound.

pydicom inflates such an object whole, whatever comes out: 1 MB of it may hold 1 GB.
"""

from __future__ import annotations

import io
import zlib

from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.errors import Reason, RejectedError

MAX_INFLATED_BYTES = 512 * 2**20
_CHUNK = 2**20


def inflate(file: RangedFile, start: int) -> RangedFile:
    """The dataset behind ``start`` as a file of its own; raises `RejectedError` `TOO_LARGE`."""
    inflater, found, place = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(), start
    while not inflater.eof:
        data = inflater.unconsumed_tail
        if not data:
            data = file.read_at(place, _CHUNK)
            place += len(data)
        if not data:
            break
        found += inflater.decompress(data, _CHUNK)
        if len(found) > MAX_INFLATED_BYTES:
            raise RejectedError(Reason.TOO_LARGE, f"inflates to more than {MAX_INFLATED_BYTES} bytes")
    return RangedFile(io.BytesIO(found))
