"""Limits on what a header may claim, and pixels of any depth as uint8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.archive.instance import Frame

MAX_FRAME_PIXELS = 64_000_000
"""A frame that claims more pixels is refused before anything is allocated."""
MAX_FRAMES = 20_000


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the readers: pydicom and Pillow quote header values in warnings and in log lines."""
    reader = logging.getLogger("pydicom")
    level = reader.level
    reader.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        reader.setLevel(level)


def to_uint8(pixels: NDArray[np.generic]) -> Frame:
    """Bring pixels of any depth to uint8; more than 8 bits are scaled by the frame's own range, NaN is 0.

    Args:
        pixels: ``(rows, columns)`` or ``(rows, columns, 3)``, any integer or float dtype.
    """
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    values = pixels.astype(np.float32)
    values[~np.isfinite(values)] = 0
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) * (255.0 / max(high - low, 1e-6)), dtype=np.uint8)
