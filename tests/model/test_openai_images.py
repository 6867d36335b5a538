from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from sonoloop.model.openai.errors import ApiError
from sonoloop.model.openai.images import decode_images

Picture = Callable[..., bytes]
DataUri = Callable[[bytes], str]


def decoded(*urls: str, max_images: int = 4, max_pixels: int = 10**6) -> list[Image.Image]:
    return decode_images(urls, max_images=max_images, max_pixels=max_pixels)


def refusal(*urls: str, max_images: int = 4, max_pixels: int = 10**6) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decoded(*urls, max_images=max_images, max_pixels=max_pixels)
    assert caught.value.status == 400
    return caught.value


def saved(picture: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def test_images_come_back_as_they_were_sent_and_in_order(picture: Picture, data_uri: DataUri) -> None:
    files = [picture(seed=seed) for seed in range(3)]
    for file, found in zip(files, decoded(*map(data_uri, files)), strict=True):
        assert found.mode == "RGB"
        assert np.array_equal(np.asarray(found), np.asarray(Image.open(io.BytesIO(file))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_each_supported_format_is_read(picture: Picture, data_uri: DataUri, kind: str) -> None:
    assert decoded(data_uri(picture(kind)))[0].size == (96, 64)


def test_sixteen_bit_greys_are_scaled_and_not_clipped(data_uri: DataUri) -> None:
    ramp = np.tile(np.linspace(0, 4000, 64).astype(np.uint16), (64, 1))
    (found,) = decoded(data_uri(saved(Image.fromarray(ramp))))
    row = np.asarray(found)[0, :, 0]
    assert row[-1] == 255
    assert len(np.unique(row)) == 64


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_colour_mode_becomes_rgb(data_uri: DataUri, mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decoded(data_uri(saved(Image.new(mode, (32, 32)), kind)))[0].mode == "RGB"


@pytest.mark.parametrize("url", ["http://127.0.0.1/x.png", "HTTPS://example.org/x.png"])
def test_an_address_is_refused_and_the_way_out_is_told(url: str) -> None:
    err = refusal(url)
    assert err.code == "image_url_not_fetched"
    assert "data:image/png;base64" in err.message
    assert url not in err.message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "file:///etc/passwd",
        "data:image/png,abc",
        "data:image/png;base64",
        "data:image/png;base64,###",
        "data:image/png;base64,abc",
        "data:image/png;base64,é",
        "data:image/png;base64,",
        "data:text/html;base64," + base64.b64encode(b"<html>").decode(),
    ],
)
def test_what_is_no_data_uri_of_an_image_is_refused(url: str) -> None:
    assert refusal(url).code == "invalid_image"


def test_a_file_cut_anywhere_is_refused_and_never_crashes(picture: Picture, data_uri: DataUri) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        file = picture(kind)
        for length in range(0, len(file) * 9 // 10, len(file) // 40):
            assert refusal(data_uri(file[:length])).code == "invalid_image"


def test_damaged_bytes_are_decoded_or_refused_and_never_crash(picture: Picture, data_uri: DataUri) -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP"):
        for _ in range(60):
            file = bytearray(picture(kind))
            for place in rng.integers(0, min(len(file), 300), 4):
                file[place] = rng.integers(0, 256)
            with suppress(ApiError):
                assert decoded(data_uri(bytes(file)))[0].mode == "RGB"


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk
        + struct.pack(">I", len(data) - 4)
        + data
        + struct.pack(">I", zlib.crc32(data))
    )


@pytest.mark.parametrize("size", [(1001, 1000), (12_000, 12_000), (60_000, 60_000)])
def test_an_image_over_the_pixel_limit_is_refused_before_it_is_unpacked(
    data_uri: DataUri, size: tuple[int, int]
) -> None:
    assert refusal(data_uri(_bomb(*size))).code == "image_too_large"


def test_the_pixel_limit_holds_for_all_images_together(picture: Picture, data_uri: DataUri) -> None:
    url = data_uri(picture(size=(100, 100)))
    assert len(decoded(url, url, max_pixels=20_000)) == 2
    assert refusal(url, url, max_pixels=19_999).code == "image_too_large"


def test_more_images_than_allowed_are_refused(picture: Picture, data_uri: DataUri) -> None:
    assert refusal(*[data_uri(picture())] * 3, max_images=2).code == "too_many_images"


def test_a_format_outside_the_list_is_refused(data_uri: DataUri) -> None:
    assert refusal(data_uri(saved(Image.new("RGB", (32, 32)), "TIFF"))).code == "invalid_image"


def test_an_image_too_small_to_be_read_is_refused(data_uri: DataUri) -> None:
    assert "16 px" in refusal(data_uri(saved(Image.new("RGB", (8, 8))))).message
