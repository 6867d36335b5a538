"""NumPy's ``.npy`` files: a frame ``(H, W)`` or ``(H, W, 3)``, or a loop ``(T, H, W)`` or ``(T, H, W, 3)``.

A last axis of length 3 is colour. Each frame is read by itself; nothing is unpickled.
"""

from __future__ import annotations

import math
from typing import BinaryIO

import numpy as np

from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.reading.pixels import MAX_FRAME_PIXELS, MAX_FRAMES, decoding, to_uint8
from sonoloop.platform.archive.reading.plain import plain_instance
from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.errors import Reason, RejectedError

ARRAY_START = b"\x93NUMPY"


def open_array(file: RangedFile, name: str) -> Instance:
    """Read an array's header; raises `RejectedError`."""
    shape, dtype = _read_header(file)
    colour = (3,) if len(shape) > 2 and shape[-1] == 3 else ()
    plane = shape[: len(shape) - len(colour)]
    if len(plane) not in (2, 3):
        raise RejectedError(Reason.NOT_AN_IMAGE, f"expected one frame or a loop, found {len(shape)} axes")
    num_frames, rows, columns = plane if len(plane) == 3 else (1, *plane)
    if rows * columns > MAX_FRAME_PIXELS or num_frames > MAX_FRAMES:
        raise RejectedError(Reason.TOO_LARGE, f"claims {rows} x {columns} pixels, {num_frames} frames")
    if 0 in shape:
        raise RejectedError(Reason.NO_PIXELS, f"claims {rows} x {columns} pixels, {num_frames} frames")
    start, frame_shape = file.tell(), (rows, columns, *colour)
    frame_bytes = math.prod(frame_shape) * dtype.itemsize
    num_whole = min((file.size - start) // frame_bytes, num_frames)
    if num_whole == 0:
        raise RejectedError(Reason.TRUNCATED, "the array holds no whole frame")

    def frame(index: int) -> Frame:
        with decoding(index, num_whole):
            data = file.read_at(start + index * frame_bytes, frame_bytes)
            return to_uint8(np.frombuffer(data, dtype).reshape(frame_shape))

    return plain_instance(name, kind="npy", num_frames=num_whole, size=(rows, columns), frame=frame)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """The shape and the kind of number; the file then stands at the values."""
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, by_columns, dtype = read(file)  # type: ignore[no-untyped-call]
    except Exception as err:  # a literal of arbitrary bytes
        raise RejectedError(
            Reason.UNREADABLE, f"the array's header cannot be read ({type(err).__name__})"
        ) from None
    if dtype.kind not in "buif" or (by_columns and len(shape) > 1) or any(length < 0 for length in shape):
        raise RejectedError(Reason.UNREADABLE, "expected numbers, last axis fastest")
    return shape, dtype
