"""One frame's bytes to pixels, by maintained decoders; which one was fastest is measured in ``benchmarks``.

| transfer syntax | decoder |
|---|---|
| native, any byte order | numpy, through pydicom |
| JPEG of 8 bits, lossless only where grey | libjpeg-turbo, through Pillow |
| JPEG lossless in colour, JPEG of more bits | libjpeg, through pylibjpeg; optional |
| JPEG-LS | CharLS, through pyjpegls |
| JPEG 2000, HTJ2K | OpenJPEG, through pylibjpeg |
| JPEG XL | libjxl, through pillow-jxl; optional |
| RLE | pylibjpeg-rle |

None is gdcm: an altered JPEG makes version 3.2.6 throw where nothing catches, which ends the process.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from sonoloop.platform.archive.reading import optional
from sonoloop.platform.archive.reading.codestream import Codestream, read_codestream
from sonoloop.platform.archive.reading.pixels import MAX_FRAME_PIXELS
from sonoloop.platform.errors import Reason, RejectedError

JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
JPEG_XL = tuple(uid.UID(f"1.2.840.10008.1.2.4.{number}") for number in (110, 111, 112))
"""Lossless, recompressed JPEG, any; pydicom 3.0 has no names for them."""
_PLUGINS = {
    uid.JPEGBaseline8Bit: "pylibjpeg",
    uid.JPEGExtended12Bit: "pylibjpeg",
    uid.JPEGLossless: "pylibjpeg",
    uid.JPEGLosslessSV1: "pylibjpeg",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.RLELossless: "pylibjpeg",
}
STILL_SYNTAXES = (*_PLUGINS, *JPEG_XL)
"""Compressed transfer syntaxes whose frames are decoded each by itself."""
_JPEG_END = b"\xff\xd9"
_ONE_SAMPLE = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")
_THREE_SAMPLES = ("RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_420", *_SUBSAMPLED)

Pixels = NDArray[Any]


@dataclass(frozen=True)
class PixelFormat:
    """The Image Pixel module's description of one frame; checked, `photometric` as the header has it."""

    syntax: uid.UID
    rows: int
    columns: int
    photometric: str
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: int
    swapped: bool = False

    @property
    def frame_bytes(self) -> int:
        """Length of one native frame."""
        if self.photometric in _SUBSAMPLED:
            return self.rows * self.columns * 2
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    def options(self, photometric: str) -> dict[str, Any]:
        """As pydicom's decoders want it."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "number_of_frames": 1,
            "samples_per_pixel": self.samples,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": int(self.signed),
            "photometric_interpretation": photometric,
            "planar_configuration": self.planar,
            "pixel_keyword": "PixelData",
            "pixel_vr": "OB" if self.bits_allocated == 8 else "OW",
        }


def pixel_format(dataset: pydicom.Dataset, syntax: uid.UID, *, pixel_vr: str) -> PixelFormat:
    """Read the module; raises `RejectedError` where a frame is implausible or of a kind unknown."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows * columns == 0:
        raise RejectedError(Reason.NO_PIXELS, f"claims {rows} x {columns} pixels")
    if rows * columns > MAX_FRAME_PIXELS:
        raise RejectedError(Reason.TOO_LARGE, f"claims {rows} x {columns} pixels")
    found = PixelFormat(
        syntax=syntax,
        rows=rows,
        columns=columns,
        photometric=str(dataset.PhotometricInterpretation),
        samples=int(dataset.SamplesPerPixel),
        bits_allocated=int(dataset.BitsAllocated),
        bits_stored=int(dataset.get("BitsStored") or dataset.BitsAllocated),
        signed=bool(dataset.get("PixelRepresentation")),
        planar=int(dataset.get("PlanarConfiguration") or 0),
        swapped=syntax == uid.ExplicitVRBigEndian and pixel_vr == "OW" and int(dataset.BitsAllocated) == 8,
    )
    expected = {1: _ONE_SAMPLE, 3: _THREE_SAMPLES}.get(found.samples, ())
    if found.photometric not in expected or found.bits_allocated not in (8, 16, 32):
        raise RejectedError(
            Reason.UNREADABLE,
            f"no decoder for {found.samples} samples of {found.bits_allocated} bits in this colour model",
        )
    return found


def decode_native(data: bytes, form: PixelFormat) -> Pixels:
    """One uncompressed frame, ``(rows, columns[, 3])``, samples as stored; 4:2:2 is brought to full width."""
    photometric = "YBR_FULL_422" if form.photometric in _SUBSAMPLED else form.photometric
    if photometric == "YBR_PARTIAL_420":
        raise RejectedError(Reason.UNREADABLE, "4:2:0 chroma is defined for compressed frames only")
    decoder = get_decoder(form.syntax)
    return np.asarray(decoder.as_array(data, index=0, raw=True, **form.options(photometric))[0])


def decode_compressed(frame: bytes, form: PixelFormat) -> tuple[Pixels, str]:
    """One compressed frame and the colour model that its samples have now.

    Where the codestream says which colours it holds, it is believed, not the header.

    Raises:
        RejectedError: `UNREADABLE`, the frame is of another size than the header says; it is not decoded.
    """
    claims = read_codestream(frame)
    _refuse_other_shape(claims, form)
    if form.syntax in JPEG_XL:
        optional.refuse_without(optional.HAS_JPEG_XL)
        return _with_pillow(frame, "JXL"), form.photometric if form.samples == 1 else "RGB"
    if form.syntax in uid.JPEGLSTransferSyntaxes and not frame.rstrip(b"\0").endswith(_JPEG_END):
        raise RejectedError(Reason.TRUNCATED, "a JPEG-LS frame without its end, on which CharLS spends 8 s")
    photometric = _photometric(claims, form)
    if claims and form.syntax in JPEG and claims.bits == 8 and not (claims.lossless and form.samples == 3):
        as_stored = photometric == "RGB" and claims.colour is None  # libjpeg would take it for YCbCr
        return _with_pillow(frame, "JPEG", as_stored=as_stored), "RGB" if form.samples == 3 else photometric
    if form.syntax in JPEG:
        optional.refuse_without(optional.HAS_LIBJPEG)
    pixels, found = get_decoder(form.syntax).as_array(
        encapsulate([frame], has_bot=False),
        index=0,
        raw=True,
        decoding_plugin=_PLUGINS[form.syntax],
        **form.options(photometric),
    )
    return pixels, photometric if claims and claims.colour else str(found["photometric_interpretation"])


def _refuse_other_shape(claims: Codestream | None, form: PixelFormat) -> None:
    if claims is None:
        if form.syntax == uid.RLELossless:
            return
        raise RejectedError(Reason.TRUNCATED, "a frame does not start as its transfer syntax says")
    if (claims.rows, claims.columns) != (form.rows, form.columns):
        raise RejectedError(
            Reason.UNREADABLE,
            f"a frame of {claims.rows} x {claims.columns} where the header says {form.rows} x {form.columns}",
        )
    if claims.samples not in (0, form.samples):
        raise RejectedError(
            Reason.UNREADABLE, f"a frame of {claims.samples} samples where the header says {form.samples}"
        )


def _photometric(claims: Codestream | None, form: PixelFormat) -> str:
    if form.samples == 1 or claims is None:
        return form.photometric
    if claims.colour is not None:
        return "RGB" if claims.colour == "rgb" else "YBR_FULL"
    return "RGB" if form.photometric in ("YBR_RCT", "YBR_ICT") else form.photometric


def _with_pillow(frame: bytes, kind: str, *, as_stored: bool = False) -> Pixels:
    picture = Image.open(io.BytesIO(frame), formats=(kind,))
    if as_stored:
        picture.draft("YCbCr", picture.size)
    return np.asarray(picture)
