"""Frames into PixelData under each of the archive's transfer syntaxes.

Frames are uint8 ``(rows, columns)`` or ``(rows, columns, 3)`` RGB. JPEG and JPEG 2000 are written by
Pillow, JPEG-LS by GDCM, RLE by pydicom.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import gdcm
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

Frame = NDArray[np.uint8]

JPEG_QUALITY = 92
SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEG2000Lossless,
)


def set_pixels(dataset: pydicom.Dataset, frames: list[Frame], syntax: UID) -> None:
    """Fill the image pixel module and PixelData; the caller has set file meta's transfer syntax.

    Raises:
        ValueError: the syntax is none of `SYNTAXES`.
    """
    rows, columns = frames[0].shape[:2]
    is_colour = frames[0].ndim == 3
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = _photometric(is_colour, syntax)
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if syntax in _ENCODERS:
        dataset.PixelData = encapsulate([_ENCODERS[syntax](frame) for frame in frames])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    elif syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        dataset.PixelData = b"".join(frame.tobytes() for frame in frames)
        dataset["PixelData"].VR = "OW" if syntax == ImplicitVRLittleEndian else "OB"
    else:
        raise ValueError(f"no encoder for transfer syntax {syntax}")
    if syntax == JPEGBaseline8Bit:
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
        dataset.LossyImageCompressionRatio = round(sum(f.size for f in frames) / len(dataset.PixelData), 2)


def _photometric(is_colour: bool, syntax: UID) -> str:
    if not is_colour:
        return "MONOCHROME2"
    return {JPEGBaseline8Bit: "YBR_FULL_422", JPEG2000Lossless: "YBR_RCT"}.get(syntax, "RGB")


def _jpeg(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    options = {"subsampling": "4:2:2"} if frame.ndim == 3 else {}
    Image.fromarray(frame).save(buffer, format="JPEG", quality=JPEG_QUALITY, **options)
    return buffer.getvalue()


def _jpeg2000(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(
        buffer, format="JPEG2000", no_jp2=True, irreversible=False, mct=frame.ndim == 3
    )
    return buffer.getvalue()


def _rle(frame: Frame) -> bytes:
    is_colour = frame.ndim == 3
    encoded: bytes = RLELosslessEncoder.encode(
        frame,
        rows=frame.shape[0],
        columns=frame.shape[1],
        samples_per_pixel=3 if is_colour else 1,
        photometric_interpretation="RGB" if is_colour else "MONOCHROME2",
        planar_configuration=0,
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        number_of_frames=1,
    )
    return encoded


def _jpeg_ls(frame: Frame) -> bytes:
    """One JPEG-LS codestream through GDCM's codec, lossless."""
    rows, columns = frame.shape[:2]
    writer = gdcm.ImageWriter()  # owns the image: a bare gdcm.Image aborts the process on clean-up
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    is_colour = frame.ndim == 3
    image.SetPixelFormat(gdcm.PixelFormat(3 if is_colour else 1, 8, 8, 7, 0))
    kind = gdcm.PhotometricInterpretation.RGB if is_colour else gdcm.PhotometricInterpretation.MONOCHROME2
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(frame.tobytes())
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLSLossless))
    change.SetInput(image)
    assert change.Change(), "GDCM refused to encode a plain 8-bit frame as JPEG-LS"
    encoded = change.GetOutput()  # each owner is named, so that none is freed before the bytes are copied
    sequence = encoded.GetDataElement().GetSequenceOfFragments()
    data: bytes = sequence.GetFragment(0).GetByteValue().GetBuffer().encode("utf-8", "surrogateescape")
    return data


_ENCODERS: dict[UID, Callable[[Frame], bytes]] = {
    RLELossless: _rle,
    JPEGBaseline8Bit: _jpeg,
    JPEGLSLossless: _jpeg_ls,
    JPEG2000Lossless: _jpeg2000,
}
