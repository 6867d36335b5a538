"""Images of a request: data URIs in, RGB pictures out. Nothing is ever fetched from an address."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from PIL import Image

from sonoloop.model.frames import FORMATS, decode_frame
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.serve.protocol import bad_request

_KINDS = ", ".join(f"image/{name.lower()}" for name in FORMATS)


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
        # the limit is the request's, so that every picture within it comes back in its own size
        return Image.fromarray(decode_frame(data, max_pixels=max_pixels, shrink_to=max(max_pixels, 1)))
    except RejectedError as err:
        if err.reason is Reason.TOO_LARGE:
            raise bad_request(
                f"{where} is too large, {err.detail}; shrink it", code="image_too_large", param="messages"
            ) from None
        raise _not_an_image(
            f"{where} cannot be read, {err.detail}; expected a whole file of {_KINDS}"
        ) from None


def _not_an_image(message: str) -> Exception:
    return bad_request(message, code="invalid_image", param="messages")
