"""From samples as stored to what the scanner's screen showed: uint8, grey or RGB, bright is 255.

- 8-bit grey and colour are shown as they are stored; the window of an 8-bit object is not applied.
- More bits of grey go through the modality and window transforms of the header, or, where it has no window,
  are scaled by the frame's own range.
- Palettes, also segmented and 16-bit ones, are looked up.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_windowing

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.reading.decode import Pixels
from sonoloop.platform.archive.reading.palette import read_palette
from sonoloop.platform.archive.reading.pixels import to_uint8
from sonoloop.platform.errors import Reason, RejectedError


class Display:
    """The display transforms of one object, prepared once for all its frames."""

    def __init__(self, dataset: pydicom.Dataset, *, little_endian: bool) -> None:
        self._dataset, self._little_endian = dataset, little_endian
        self._colours: Frame | None = None

    def __call__(self, pixels: Pixels, photometric: str) -> Frame:
        """One frame, ``(rows, columns)`` or ``(rows, columns, 3)``, uint8.

        Args:
            pixels: The same shape, samples as stored, any integer dtype.
            photometric: DICOM's name of their colour model.
        """
        if photometric == "PALETTE COLOR":
            return self._look_up(pixels.astype(pixels.dtype.newbyteorder("=")))
        if photometric.startswith("YBR"):
            return rgb_of(to_uint8(pixels), partial_range="PARTIAL" in photometric)
        if pixels.ndim == 2 and pixels.dtype != np.uint8:
            pixels = _windowed(pixels, self._dataset)
        eight = to_uint8(pixels)
        return 255 - eight if photometric == "MONOCHROME1" else eight

    def _look_up(self, pixels: Pixels) -> Frame:
        if pixels.dtype.itemsize > 2:
            raise RejectedError(Reason.UNREADABLE, "expected a palette of up to 16 bits")
        numbers = np.dtype(f"u{pixels.dtype.itemsize}")
        if self._colours is None:
            first, table = read_palette(self._dataset, little_endian=self._little_endian)
            values = (
                np.arange(2 ** (8 * numbers.itemsize)).astype(numbers).view(pixels.dtype).astype(np.int64)
            )
            self._colours = table[np.clip(values - first, 0, len(table) - 1)]
        return self._colours.take(pixels.view(numbers), axis=0)


def rgb_of(ybr: Frame, *, partial_range: bool = False) -> Frame:
    """YCbCr to RGB, BT.601; ``partial_range`` where black is 16 and white 235.

    Source: DICOM PS3.3 C.7.6.3.1.2.
    """
    if partial_range:
        steps = np.arange(256.0)
        luma = np.clip((steps - 16) * 255 / 219, 0, 255).round().astype(np.uint8)
        chroma = np.clip((steps - 128) * 255 / 224 + 128, 0, 255).round().astype(np.uint8)
        ybr = np.stack([luma[ybr[..., 0]], chroma[ybr[..., 1]], chroma[ybr[..., 2]]], axis=-1)
    size = (ybr.shape[1], ybr.shape[0])
    return np.asarray(Image.frombytes("YCbCr", size, np.ascontiguousarray(ybr).tobytes()).convert("RGB"))


def _windowed(pixels: Pixels, dataset: pydicom.Dataset) -> NDArray[Any]:
    """Grey of more than 8 bits, brought to 0..255 by the header's window where it has one."""
    if dataset.BitsStored <= 8 and not dataset.get("PixelRepresentation"):
        return pixels.astype(np.uint8)
    values = np.asarray(apply_modality_lut(pixels, dataset))
    if not dataset.get("WindowWidth"):
        return values
    window = partial(apply_windowing, ds=dataset)
    low, high = window(np.array([-1e9, 1e9]))
    shown = (np.asarray(window(values)) - low) * (255 / (high - low))
    return np.asarray(shown.clip(0, 255).round(), dtype=np.uint8)
