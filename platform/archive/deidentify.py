"""Pixels leave the archive only de-identified, and as lossless PNG.

What lies outside the declared ultrasound regions (banner, name, dates, logos) is blacked out. An object
that declares no region cannot be shown clean here and is rejected, unless the configuration says that the
archive's pictures were cleaned before.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from sonoloop.platform.archive.instance import Frame, Region
from sonoloop.platform.errors import Reason, RejectedError


def clean_frame(frame: Frame, regions: tuple[Region, ...], *, pictures_are_clean: bool) -> Frame:
    """The frame, black outside the regions.

    Args:
        frame: ``(rows, columns)`` or ``(rows, columns, 3)``, uint8.
        regions: Bounds in pixels, both ends inside.
        pictures_are_clean: Let a frame without regions pass as it is.

    Raises:
        RejectedError: there is no region, so nothing can be shown clean.
    """
    if not regions:
        if pictures_are_clean:
            return frame
        raise RejectedError(
            Reason.PHI_SUSPECTED, "no ultrasound region is declared; text may lie in the pixels"
        )
    cleaned = np.zeros_like(frame)
    for region in regions:
        rows, columns = slice(region.top, region.bottom + 1), slice(region.left, region.right + 1)
        cleaned[rows, columns] = frame[rows, columns]
    return cleaned


def encode_png(frame: Frame) -> tuple[str, bytes]:
    """The frame as PNG without metadata, and its workspace key ``images/ab/<sha256>.png``."""
    if (
        frame.ndim == 3
        and np.array_equal(frame[..., 0], frame[..., 1])
        and np.array_equal(frame[..., 0], frame[..., 2])
    ):
        frame = frame[..., 0]  # grey stored as colour: a third of the bytes, the same picture
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, format="PNG", compress_level=4)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    return f"images/{digest[:2]}/{digest}.png", data
