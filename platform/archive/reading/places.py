"""Where the frames of a DICOM object lie in its file, found without reading them.

``NumberOfFrames`` is a claim. The frames are counted from the data: native ones by length, compressed ones by
the offset table or, where there is none that fits, by walking the headers of the items. What counts is whole
frames: one that the file's end cuts through is none, and frames beyond the claim exist.

Source: DICOM PS3.5 A.4 (encapsulation), PS3.3 C.7.6.3.1.8 (Extended Offset Table).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import pydicom

from sonoloop.platform.archive.reading.codestream import J2K_START, JPEG_START, JXL_STARTS
from sonoloop.platform.archive.reading.pixels import MAX_FRAMES
from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.errors import Reason, RejectedError

UNDEFINED = 0xFFFFFFFF
MAX_ITEMS = 8 * MAX_FRAMES
_ITEM, _PIXEL_DATA = (0xFFFE, 0xE000), (0x7FE0, 0x0010)
_HEADER = 8
"""Bytes of an item's header: its tag and its length."""
_RLE_STARTS = tuple(struct.pack("<LL", num_segments, 64) for num_segments in range(1, 16))
_STARTS = (JPEG_START, J2K_START, *JXL_STARTS, *_RLE_STARTS)
_LONGEST_START = max(map(len, _STARTS))

Span = tuple[int, int]
"""Where something starts in the file and where it ends; items with their headers."""


@dataclass(frozen=True)
class PixelElement:
    """The header of PixelData: where its value starts, how long it says it is, and its VR."""

    start: int
    length: int
    vr: str


class _Item(NamedTuple):
    start: int
    end: int
    is_start: bool  # of a codestream


def pixel_element(file: RangedFile, *, little_endian: bool) -> PixelElement:
    """Read the element's header, on which the file stands after its dataset was read.

    Raises:
        RejectedError: `NO_PIXELS`, another element or none is there.
    """
    place, header, order = file.tell(), file.read(12), "<" if little_endian else ">"
    if len(header) < 12 or struct.unpack(f"{order}HH", header[:4]) != _PIXEL_DATA:
        raise RejectedError(Reason.NO_PIXELS, "the object has no PixelData; it may be cut off")
    if header[4:6] in (b"OB", b"OW", b"UN"):
        return PixelElement(place + 12, struct.unpack(f"{order}L", header[8:])[0], header[4:6].decode())
    return PixelElement(place + 8, struct.unpack(f"{order}L", header[4:8])[0], "OW")


def native_frames(file: RangedFile, element: PixelElement, frame_bytes: int) -> list[Span]:
    """Every whole frame of uncompressed data."""
    length = min(element.length, file.size - element.start)
    places = range(element.start, element.start + length - frame_bytes + 1, frame_bytes)
    if len(places) > MAX_FRAMES:
        raise RejectedError(Reason.TOO_LARGE, f"holds {len(places)} frames")
    return [(place, place + frame_bytes) for place in places]


def encapsulated_frames(
    file: RangedFile, element: PixelElement, dataset: pydicom.Dataset, claimed: int
) -> list[Span]:
    """Every whole frame of compressed data.

    A table is believed where it has as many entries as ``NumberOfFrames`` says, from 0, ascending and within
    the file; otherwise a fragment that starts a codestream starts a frame.

    Raises:
        RejectedError: `UNREADABLE`, no items; `TRUNCATED`, nothing whole; `TOO_LARGE`, too many items.
    """
    if element.length != UNDEFINED:
        raise RejectedError(Reason.UNREADABLE, "expected compressed frames in items, found plain pixels")
    table = next(_items(file, element.start), None)
    if table is None:
        raise RejectedError(Reason.TRUNCATED, "the compressed frames are cut off")
    first, basic = table.end, []
    if first - table.start <= _HEADER + 4 * MAX_FRAMES:
        file.seek(table.start + _HEADER)
        basic = _numbers(file.read(first - table.start - _HEADER), "L")
    starts = _numbers(dataset.get("ExtendedOffsetTable"), "Q") or basic
    lengths = _numbers(dataset.get("ExtendedOffsetTableLengths"), "Q")
    if len(starts) == claimed > 1 and starts[0] == 0 and all(one < two for one, two in pairwise(starts)):
        if len(lengths) == claimed:
            last = starts[-1] + _HEADER + lengths[-1]
        else:
            last = max((item.end - first for item in _items(file, first + starts[-1])), default=0)
        spans = [(first + start, first + end) for start, end in pairwise([*starts, last])]
        if all(start < end <= file.size for start, end in spans):
            return spans
    return _grouped(list(_items(file, first)), claimed)


def fragments(file: RangedFile, element: PixelElement) -> list[Span]:
    """The contents of all items behind the offset table, without headers: a video's one stream."""
    items = list(_items(file, element.start))[1:] if element.length == UNDEFINED else []
    if not items:
        raise RejectedError(Reason.TRUNCATED, "the object holds no whole stream")
    return [(item.start + _HEADER, item.end) for item in items]


def read_encapsulated(file: RangedFile, span: Span) -> bytes:
    """One compressed frame, its fragments joined; one read."""
    data = file.read_at(span[0], span[1] - span[0])
    place, fragments = 0, []
    while place + _HEADER <= len(data) and struct.unpack_from("<HH", data, place) == _ITEM:
        length = struct.unpack_from("<L", data, place + 4)[0]
        fragments.append(data[place + _HEADER : place + _HEADER + length])
        place += _HEADER + length
    return fragments[0] if len(fragments) == 1 else b"".join(fragments)


def _items(file: RangedFile, place: int) -> Iterator[_Item]:
    """The whole items from ``place`` to the delimiter or the end of the file."""
    for _ in range(MAX_ITEMS):
        file.seek(place)
        header = file.read(_HEADER + _LONGEST_START)
        if len(header) < _HEADER or struct.unpack_from("<HH", header) != _ITEM:
            return
        end = place + _HEADER + struct.unpack_from("<L", header, 4)[0]
        if end > file.size:
            return
        yield _Item(place, end, header[_HEADER:].startswith(_STARTS))
        place = end
    raise RejectedError(Reason.TOO_LARGE, f"PixelData consists of more than {MAX_ITEMS} items")


def _grouped(items: list[_Item], claimed: int) -> list[Span]:
    """Frames out of fragments: one each where the claim fits, else by the starts of codestreams."""
    frames: list[Span] = []
    for item in items:
        if len(items) == claimed or not frames or item.is_start:
            frames.append((item.start, item.end))
        else:
            frames[-1] = (frames[-1][0], item.end)
    return frames


def _numbers(data: bytes | None, kind: str) -> list[int]:
    count = len(data or b"") // struct.calcsize(f"<{kind}")
    return list(struct.unpack_from(f"<{count}{kind}", data or b""))
