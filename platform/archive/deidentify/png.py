"""Clean frames as lossless PNG without metadata, named by content."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from sonoloop.platform.archive.instance import Frame


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
