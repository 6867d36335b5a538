"""One frame as the model takes it: from a file's bytes or an array to uint8 RGB, within bounds.

Anything else is a `RejectedError` with its reason, decided on the header wherever the header tells:

| found | result |
|---|---|
| more than 64 million pixels, or a side past 16,384 (a small, highly compressed file too) | ``too-large`` |
| a side under 16 pixels (1x1), longer than 20 times the other, animated, another format | ``not-an-image`` |
| no bytes | ``empty-object`` |
| a header but no whole picture | ``truncated`` |
| more than 4 million pixels, as a file | shrunk by a whole factor while it is decoded |
| 1 bit, grey, palette, alpha, CMYK | RGB; alpha is dropped, since it is display and not echo |
| 16 bit, either byte order; 32 bit with values up to 65,535 | scaled by the frame's own maximum |
| floats, negative values | ``not-an-image``: the range that means white is not in them |
"""

from __future__ import annotations

import io
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sonoloop.platform.errors import Reason, RejectedError

Pixels: TypeAlias = npt.NDArray[Any]
"""One frame: uint8 or uint16, ``(H, W)`` or ``(H, W, C)``."""
Rgb: TypeAlias = npt.NDArray[np.uint8]
"""One frame: uint8, ``(H, W, 3)``, 0..255."""

MIN_SIDE_PX, MAX_SIDE_PX, MAX_ASPECT = 16, 16_384, 20.0
MAX_PIXELS = 64_000_000
"""As many as the archive's reader accepts; decoding takes 0.06 (grey PNG) to 0.4 GB (WebP), Pillow 13."""
SHRINK_PIXELS = 2**22
"""Far more than a model sees at its pixel budget; bounds what a case's frames take in memory."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""Key frames are PNG; people send the other two. Pillow knows more, some of which start other programs."""


def decode_frame(data: bytes, *, max_pixels: int = MAX_PIXELS, shrink_to: int = SHRINK_PIXELS) -> Rgb:
    """Decode one still picture. Takes 5-200 ms; memory is bounded by ``max_pixels``.

    Args:
        data: A whole file of one of `FORMATS`.
        max_pixels: A header that claims more is refused, before anything is unpacked.
        shrink_to: Larger pictures are reduced by the smallest whole factor that brings them below it. The
            picture's own orientation tag is not applied: boxes count on the pixels as they are stored.

    Raises:
        RejectedError: see the table above; the detail quotes sizes only, never the file.
    """
    if not data:
        raise RejectedError(Reason.EMPTY_OBJECT, "expected an image, found 0 bytes")
    with _opened(data) as picture:
        width, height = picture.size
        _check_size(height, width, max_pixels)
        factor = math.ceil(math.sqrt(max(width * height / shrink_to, 1)))
        try:
            _check_still(picture)
            return _reduced(picture, factor)
        except RejectedError:
            raise
        except Exception as err:  # a broken chunk raises SyntaxError, others OSError, ValueError, zlib.error
            raise RejectedError(
                Reason.TRUNCATED, f"the picture cannot be decoded ({type(err).__name__})"
            ) from None


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RejectedError(
            Reason.TOO_LARGE, f"expected up to {MAX_PIXELS} pixels, the header claims far more"
        ) from None
    except Exception as err:  # arbitrary bytes; the message may quote them, the type does not
        raise RejectedError(
            Reason.NOT_AN_IMAGE, f"expected a file of {', '.join(FORMATS)} ({type(err).__name__})"
        ) from None


def _check_still(picture: Image.Image) -> None:
    """A photograph in MPO form passes: its further pictures are previews of the first."""
    num_frames = getattr(picture, "n_frames", 1)
    if picture.format != "MPO" and num_frames > 1:
        raise RejectedError(Reason.NOT_AN_IMAGE, f"expected a still picture, found {num_frames} frames")


def _reduced(picture: Image.Image, factor: int) -> Rgb:
    if picture.mode.startswith(("I", "F")):  # Pillow's own conversion to RGB would clip these at 255
        plain = Image.fromarray(as_rgb(np.asarray(picture)))
    else:
        picture.load()
        picture.info.pop("transparency", None)  # otherwise Pillow warns that RGB drops it
        plain = picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
    return _three_channels(np.asarray(plain.reduce(factor) if factor > 1 else plain))


def as_rgb(image: Pixels) -> Rgb:
    """Any stored form of one frame as uint8 RGB; palettes need their file, hence `decode_frame`.

    Grey is repeated; an alpha channel is dropped; 16 bit is scaled by its own maximum, since the stored depth
    (10, 12 or 16 bit) is not in the array.

    Raises:
        RejectedError: not an image, or of a size no scanner writes.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or image.dtype.kind not in "bui":
        raise RejectedError(
            Reason.NOT_AN_IMAGE,
            f"expected uint8 or uint16 (H, W) or (H, W, 3), got {image.dtype} {image.shape}",
        )
    _check_size(image.shape[0], image.shape[1], MAX_PIXELS)
    return _three_channels(_eight_bit(image[:, :, :1] if image.shape[2] < 3 else image[:, :, :3]))


def _three_channels(image: Rgb) -> Rgb:
    image = image[:, :, None] if image.ndim == 2 else image
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _eight_bit(image: Pixels) -> Rgb:
    if image.dtype.kind == "b":
        return image.astype(np.uint8) * np.uint8(255)
    if image.dtype == np.uint8:
        return image
    low, high = int(image.min()), int(image.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise RejectedError(
            Reason.NOT_AN_IMAGE, f"expected values from 0 to 65535, got {image.dtype} from {low} to {high}"
        )
    scaled = image.astype(np.float32)
    scaled *= np.float32(255.0 / max(high, 1))
    return scaled.round(out=scaled).astype(np.uint8)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    short, long = sorted((height, width))
    if long > MAX_SIDE_PX or height * width > max_pixels:
        raise RejectedError(
            Reason.TOO_LARGE,
            f"expected sides up to {MAX_SIDE_PX} px and {max_pixels} pixels, got {width} x {height}",
        )
    if short < MIN_SIDE_PX or long > MAX_ASPECT * short:
        raise RejectedError(
            Reason.NOT_AN_IMAGE,
            f"expected sides from {MIN_SIDE_PX} px, aspect up to {MAX_ASPECT:g}, got {width} x {height}",
        )
