"""The size that a compressed frame claims in its own header, read before a decoder allocates for it.

Decoders believe the codestream, whatever Rows and Columns say. Measured with gdcm 3.2.6 on a 640 x 480
JPEG 2000 frame whose size field was altered to 30000 x 30000: 10 GB and 60 s until it failed.
"""

from __future__ import annotations

_J2K_START = b"\xff\x4f\xff\x51"
_SEARCHED = 4096
"""A JPEG 2000 codestream may lie in a JP2 box, whose header is far shorter than this."""
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns as a JPEG, JPEG-LS or JPEG 2000 frame has them; ``None`` where it is none of these.

    Source: ISO/IEC 10918-1 B.2.2 (SOF), 14495-1 C.2.2 (SOF55), 15444-1 A.5.1 (SIZ).
    """
    start = frame.find(_J2K_START, 0, _SEARCHED)
    if start >= 0:
        right, bottom, left, top = (_number(frame, start + place, 4) for place in (8, 12, 16, 20))
        return bottom - top, right - left
    return _jpeg_size(frame) if frame[:2] == b"\xff\xd8" else None


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker in _FRAME_HEADERS:
            return _number(frame, place + 5, 2), _number(frame, place + 7, 2)
        if marker in (_SCAN, _END):
            return None
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        else:
            place += 2 + _number(frame, place + 2, 2)
    return None


def _number(data: bytes, place: int, length: int) -> int:
    return int.from_bytes(data[place : place + length], "big")
