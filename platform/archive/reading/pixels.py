"""Limits on what a header may claim, and pixels of any depth as uint8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.errors import Reason, RejectedError

MAX_FRAME_PIXELS = 64_000_000
"""A frame that claims more pixels is refused before anything is allocated."""
MAX_FRAMES = 20_000
_TALKATIVE = ("pydicom", "PIL", "openjpeg", "pylibjpeg")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the readers: they quote header values in warnings and in log lines.

    FFmpeg needs no word here: PyAV 18 drops its messages unless asked for them. libtiff and pylibjpeg-rle
    write to standard error where data are broken: numbers, never text of the object.
    """
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def decoding(index: int, num_frames: int) -> Iterator[None]:
    """The boundary around every decoder: whatever it raises leaves as a rejection that quotes nothing.

    Raises:
        RejectedError: `TRUNCATED`, there is no such frame or it cannot be decoded.
    """
    if not 0 <= index < num_frames:
        raise RejectedError(Reason.TRUNCATED, f"expected frame {index}, found {num_frames} frames")
    try:
        with quiet():
            yield
    except RejectedError:
        raise
    except BaseException as err:  # every decoder raises its own; the type says enough and quotes nothing
        if (
            not isinstance(err, Exception) and type(err).__name__ != "PanicException"
        ):  # Rust's, of pylibjpeg-rle
            raise
        raise RejectedError(
            Reason.TRUNCATED, f"frame {index} cannot be decoded ({type(err).__name__})"
        ) from None


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
