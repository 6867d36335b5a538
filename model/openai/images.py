"""Images of a request: data URIs or ids of uploads in, RGB pictures out. No address is ever fetched."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from http import HTTPStatus

from PIL import Image

from sonoloop.model.frames import FORMATS, decode_frame
from sonoloop.model.openai.errors import ApiError, bad_request
from sonoloop.platform.errors import Reason, RejectedError

FILE_PREFIX = "file-"
_KINDS = ", ".join(f"image/{name.lower()}" for name in FORMATS)

Uploaded = Callable[[str], Image.Image | None]
"""The picture of an upload, or None where there is none of that id."""


def decode_images(
    sources: Sequence[str], *, max_images: int, max_pixels: int, uploaded: Uploaded | None = None
) -> list[Image.Image]:
    """Decode the images of one request, in order. Blocks for 5-200 ms per image: call it in a thread.

    Args:
        sources: ``data:image/...;base64,...``, or ``file-...`` of an upload.
        max_images: How many there may be.
        max_pixels: Pixels of all of them together; read from the headers, before anything is unpacked.
        uploaded: Where uploads lie; None where there are none.

    Returns:
        Pictures of mode RGB.

    Raises:
        ApiError: 400; too many, too large, an address instead of data, or not an image. 404: no such upload.
    """
    if len(sources) > max_images:
        raise bad_request(
            f"expected at most {max_images} images, found {len(sources)}",
            code="too_many_images",
            param="messages",
        )
    pictures: list[Image.Image] = []
    for number, source in enumerate(sources):
        where = f"image {number}"
        left = max_pixels - sum(picture.width * picture.height for picture in pictures)
        if source.startswith(FILE_PREFIX):
            pictures.append(_upload(source, where, uploaded, max_pixels=left))
        else:
            pictures.append(decode_image(_payload(source, where), where, max_pixels=left, param="messages"))
    return pictures


def decode_image(data: bytes, where: str, *, max_pixels: int, param: str) -> Image.Image:
    """Decode one file, in its own size.

    Args:
        data: A whole file.
        where: What to call it in a message.
        max_pixels: A header that claims more is refused.
        param: The request's field that brought it.

    Raises:
        ApiError: 400; too large, or not an image.
    """
    try:
        # the limit is the request's, so that every picture within it comes back in its own size
        return Image.fromarray(decode_frame(data, max_pixels=max_pixels, shrink_to=max(max_pixels, 1)))
    except RejectedError as err:
        if err.reason is Reason.TOO_LARGE:
            raise _too_large(f"{where} is too large, {err.detail}", param) from None
        text = f"{where} cannot be read, {err.detail}; expected a whole file of {_KINDS}"
        raise bad_request(text, code="invalid_image", param=param) from None


def _upload(file_id: str, where: str, uploaded: Uploaded | None, *, max_pixels: int) -> Image.Image:
    picture = uploaded(file_id) if uploaded else None
    if picture is None:
        raise ApiError(
            HTTPStatus.NOT_FOUND,
            f"{where} names an upload that is not here, or no longer; upload the image again",
            code="file_not_found",
            param="messages",
        )
    if picture.width * picture.height > max_pixels:
        raise _too_large(f"{where} is too large beside the others, {max_pixels} pixels are left", "messages")
    return picture


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


def _too_large(text: str, param: str) -> ApiError:
    return bad_request(f"{text}; shrink it", code="image_too_large", param=param)


def _not_an_image(message: str) -> ApiError:
    return bad_request(message, code="invalid_image", param="messages")
