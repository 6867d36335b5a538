"""What a compressed frame says of itself, read before a decoder allocates for it.

Decoders believe the codestream, whatever Rows, Columns and PhotometricInterpretation say. Measured with gdcm
3.2.6 on a 640 x 480 JPEG 2000 frame whose size field was altered to 30000 x 30000: 10 GB and 60 s until it
failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Colour = Literal["rgb", "ycbcr"]

JPEG_START, J2K_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
JXL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_SEARCHED = 4096
"""A JPEG 2000 codestream may lie in a JP2 box, whose header is far shorter than this."""
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF, 0xF7}
_APP0, _APP14, _SCAN, _END, _COD = 0xE0, 0xEE, 0xDA, 0xD9, 0x52


@dataclass(frozen=True)
class Codestream:
    """Claims of one frame; ``colour`` is ``None`` where the markers do not tell and the header must.

    For JPEG 2000, ``"rgb"`` means that decoding undoes a colour transform, so that RGB comes out.
    """

    rows: int
    columns: int
    samples: int
    bits: int
    colour: Colour | None
    lossless: bool = False

    @property
    def pixels(self) -> int:
        """Rows times columns."""
        return self.rows * self.columns


def read_codestream(frame: bytes) -> Codestream | None:
    """The claims of a JPEG, JPEG-LS, JPEG 2000 or JPEG XL frame; ``None`` where it is none of these.

    Source: ISO/IEC 10918-1 B.2.2 (SOF), 14495-1 C.2.2 (SOF55), 15444-1 A.5.1 (SIZ), A.6.1 (COD),
    18181-1 (SizeHeader).
    """
    if frame.startswith(JPEG_START):
        return _jpeg(frame)
    if frame.startswith(JXL_STARTS):
        return _jpeg_xl(frame)
    start = frame.find(J2K_START, 0, _SEARCHED)
    return _jpeg_2000(frame, start) if start >= 0 else None


def _jpeg(frame: bytes) -> Codestream | None:
    """Colour as libjpeg tells it: JFIF, then Adobe, then the components' names; then their sampling."""
    place, jfif, adobe = 2, False, None
    while place + 10 <= len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], _number(frame, place + 2, 2)
        body = frame[place + 4 : place + 2 + length]
        if marker in _FRAME_HEADERS:
            return _jpeg_frame(body, jfif, adobe, lossless=marker in _LOSSLESS)
        if marker in (_SCAN, _END):
            return None
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        else:
            jfif = jfif or (marker == _APP0 and body.startswith(b"JFIF\0"))
            if marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12:
                adobe = body[11]
            place += 2 + length
    return None


def _jpeg_frame(body: bytes, jfif: bool, adobe: int | None, *, lossless: bool) -> Codestream | None:
    if len(body) < 6 + 3 * (num_samples := body[5] if len(body) > 5 else 0):
        return None
    names = [body[6 + 3 * i] for i in range(num_samples)]
    samplings = {body[7 + 3 * i] for i in range(num_samples)}
    colour: Colour | None = None
    if num_samples == 3:
        if jfif and not lossless:
            colour = "ycbcr"
        elif adobe in (0, 1):
            colour = "ycbcr" if adobe else "rgb"
        elif bytes(names).upper() == b"RGB":
            colour = "rgb"
        elif len(samplings) > 1:
            colour = "ycbcr"
    rows, columns = _number(body, 1, 2), _number(body, 3, 2)
    return Codestream(rows, columns, num_samples, body[0], colour, lossless)


def _jpeg_2000(frame: bytes, start: int) -> Codestream:
    right, bottom, left, top = (_number(frame, start + place, 4) for place in (8, 12, 16, 20))
    samples, bits = _number(frame, start + 40, 2), (_number(frame, start + 42, 1) & 0x7F) + 1
    place, transformed = start + 2, False
    while place + 10 <= len(frame) and frame[place] == 0xFF and frame[place + 1] >= 0x50:
        if frame[place + 1] == _COD:
            transformed = frame[place + 8] == 1
            break
        place += 2 + _number(frame, place + 2, 2)
    return Codestream(bottom - top, right - left, samples, bits, "rgb" if transformed else None)


def _jpeg_xl(frame: bytes) -> Codestream | None:
    """Only the size is read; the decoder gives RGB or grey, whatever lies inside."""
    start = 0
    if frame.startswith(JXL_STARTS[1]):  # boxes; the codestream lies in jxlc, or in parts, numbered, in jxlp
        whole, parts = (frame.find(kind, 0, _SEARCHED) for kind in (b"jxlc", b"jxlp"))
        start = whole + 4 if whole >= 0 else parts + 8
        if max(whole, parts) < 0 or frame[start : start + 2] != JXL_STARTS[0]:
            return None
    bits = _Bits(frame[start + 2 : start + 16])
    small = bits.take(1)
    rows = _jxl_length(bits, small)
    ratio = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[bits.take(3)]
    columns = rows * ratio[0] // ratio[1] if ratio[0] else _jxl_length(bits, small)
    return Codestream(rows, columns, 0, 0, "rgb")


def _jxl_length(bits: _Bits, small: int) -> int:
    return (bits.take(5) + 1) * 8 if small else bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


class _Bits:
    """Numbers from a run of bytes, lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, num_bits: int) -> int:
        found = self._left & ((1 << num_bits) - 1)
        self._left >>= num_bits
        return found


def _number(data: bytes, place: int, length: int) -> int:
    return int.from_bytes(data[place : place + length], "big")
