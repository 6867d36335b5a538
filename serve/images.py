"""Images of a request: data URIs in, RGB pictures out. Nothing is ever fetched from an address."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sonoloop.model.processor import as_rgb
from sonoloop.platform.errors import RejectedError
from sonoloop.serve.protocol import bad_request

FORMATS = ("PNG", "JPEG", "WEBP")
_KINDS = ", ".join(f"image/{name.lower()}" for name in FORMATS)
# What Pillow's decoders raise on damaged files: truncation, wrong checksums, absurd headers.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)


def decode_images(urls: Sequence[str], *, max_images: int, max_pixels: int) -> list[Image.Image]:
    """Decode the images of one request, in order. Blocks for 5-200 ms per image: call it in a thread.

    Args:
        urls: ``data:image/...;base64,...``.
        max_images: How many there may be.
        max_pixels: Pixels of all of them together; read from the headers, before anything is unpacked.

    Returns:
        Pictures of mode RGB.

    Raises:
        ApiError: 400; too many, too large, an address instead of data, or not an image.
    """
    if len(urls) > max_images:
        raise bad_request(
            f"expected at most {max_images} images, found {len(urls)}",
            code="too_many_images",
            param="messages",
        )
    pictures: list[Image.Image] = []
    for number, url in enumerate(urls):
        where = f"image {number}"
        left = max_pixels - sum(picture.width * picture.height for picture in pictures)
        pictures.append(_decoded(_payload(url, where), where, max_pixels=left))
    return pictures


def _payload(url: str, where: str) -> bytes:
    header, comma, data = url.partition(",")
    scheme, _, media = header.partition(":")
    if scheme.lower() in ("http", "https"):
        raise bad_request(
            f"{where} is a web address; this server fetches nothing, send the image itself as a data URI: "
            "data:image/png;base64,...",
            code="image_url_not_fetched",
            param="messages",
        )
    if scheme.lower() != "data" or not comma or not media.lower().endswith(";base64"):
        raise _not_an_image(f"expected {where} as data:image/png;base64,...")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _not_an_image(f"the data of {where} is not base64") from None


def _decoded(data: bytes, where: str, *, max_pixels: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise bad_request(
                    f"{where} has {width} x {height} pixels, {max_pixels} are left for it; shrink it",
                    code="image_too_large",
                    param="messages",
                )
            picture.load()
            deep = picture.mode.startswith("I")  # 16 bit; Pillow's own conversion to RGB would clip it
            pixels = np.asarray(picture, np.uint16) if deep else np.asarray(picture.convert("RGB"))
    except Image.DecompressionBombError:
        raise bad_request(
            f"{where} is far too large; send it smaller", code="image_too_large", param="messages"
        ) from None
    except _DAMAGE:
        raise _not_an_image(f"{where} cannot be read; expected a whole file of {_KINDS}") from None
    try:
        return Image.fromarray(as_rgb(pixels))
    except RejectedError as err:
        raise _not_an_image(f"{where}: {err.detail}") from None


def _not_an_image(message: str) -> Exception:
    return bad_request(message, code="invalid_image", param="messages")
