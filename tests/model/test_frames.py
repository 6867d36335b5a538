"""Files made by Pillow, bytes that claim to be files, and arrays of every kind."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from sonoloop.model.frames import MAX_PIXELS, SHRINK_PIXELS, as_rgb, decode_frame
from sonoloop.platform.errors import Reason, RejectedError


def ramp(height: int = 48, width: int = 64) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def colours(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand: headers that Pillow would not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def reason(data: bytes) -> Reason:
    with pytest.raises(RejectedError) as caught:
        decode_frame(data)
    assert not caught.value.retryable
    return caught.value.reason


GREY = np.repeat(ramp()[:, :, None], 3, axis=2)
OPAQUE = np.full_like(ramp(), 255)
HIDDEN = np.where(ramp() > 100, 0, 255).astype(np.uint8)
PALETTE = Image.fromarray(ramp()).convert("P")
KEYED = saved(PALETTE, transparency=3)
SOFT = saved(PALETTE, transparency=bytes(range(256)))


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(ramp())),
        saved(Image.fromarray(GREY)),
        saved(Image.fromarray(np.dstack([ramp(), HIDDEN]), "LA")),
        saved(Image.fromarray(np.dstack([GREY, HIDDEN]), "RGBA")),
        saved(PALETTE),
        KEYED,
        SOFT,
        saved(Image.fromarray(ramp()), transparency=0),
        saved(Image.fromarray(ramp().astype(np.uint16) * 257)),
        saved(Image.fromarray(ramp().astype(np.uint16) * 16)),
        png(64, 48, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in GREY.astype(int) * 257)),
        saved(Image.fromarray(GREY), "WEBP", lossless=True),
    ],
    ids=[
        "grey",
        "rgb",
        "grey-alpha",
        "rgba",
        "palette",
        "palette-with-a-transparent-colour",
        "palette-with-alpha",
        "grey-with-a-transparent-level",
        "16-bit",
        "12-in-16-bit",
        "rgb-of-16-bit",
        "webp",
    ],
)
def test_every_kind_of_file_gives_the_same_pixels(data: bytes) -> None:
    frame = decode_frame(data)
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, GREY)


def test_colours_keep_their_order() -> None:
    np.testing.assert_array_equal(decode_frame(saved(Image.fromarray(colours()))), colours())
    palette = Image.fromarray(colours()).quantize(16)
    np.testing.assert_array_equal(decode_frame(saved(palette)), np.asarray(palette.convert("RGB")))


def test_print_colours_become_screen_colours() -> None:
    for mode, options in (("CMYK", {}), ("L", {}), ("RGB", {"progressive": True})):
        data = saved(Image.fromarray(GREY).convert(mode), "JPEG", quality=95, **options)
        np.testing.assert_allclose(decode_frame(data).astype(int), GREY, atol=6)


def test_one_bit_is_black_and_white() -> None:
    assert set(np.unique(decode_frame(saved(Image.fromarray(ramp()).convert("1"))))) == {0, 255}


@pytest.mark.parametrize("size", [(1, 1), (15, 64), (64, 15), (16, 321), (16_384, 100)])
def test_a_picture_without_room_for_anatomy_is_no_image(size: tuple[int, int]) -> None:
    assert reason(saved(Image.new("L", size))) is Reason.NOT_AN_IMAGE


def test_the_thinnest_picture_that_is_taken() -> None:
    assert decode_frame(saved(Image.new("L", (320, 16)))).shape == (16, 320, 3)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (20_000, 20_000),
        (9_000, 9_000),
        (11_000, 11_000),
        (60_000, 60_000),
        (17_000, 900),
        (2**31 - 1, 2**31 - 1),
    ],
)
def test_a_file_that_claims_too_many_pixels_is_refused_on_its_header(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error" if width == 11_000 else "ignore")  # Pillow warns in between
        assert reason(png(width, height, 8, 0, b"")) is Reason.TOO_LARGE


# The peak of the process tells what was allocated; Pillow's own memory is not Python's.
MEASURED = """
import resource, sys
from sonoloop.model.frames import decode_frame
from sonoloop.platform.errors import RejectedError
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(decode_frame(data).shape)
except RejectedError as err:
    print(err.reason)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def measured(data: bytes) -> tuple[str, int]:
    """What came out, and by how many MiB the process grew for it."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], input=data, capture_output=True, check=True, timeout=300
    )
    result, grown = done.stdout.decode().split("\n")[:2]
    return result, int(grown)


def test_a_bomb_of_400_million_pixels_takes_no_memory() -> None:
    bomb = png(20_000, 20_000, 8, 0, bytes(20_001 * 20_000))
    assert len(bomb) < 400_000
    result, grown = measured(bomb)
    assert result == "too-large"
    assert grown < 20


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "I;16"])
def test_the_largest_file_that_is_taken_is_shrunk_within_bounded_memory(mode: str) -> None:
    side = int(MAX_PIXELS**0.5)
    result, grown = measured(saved(Image.new(mode, (side, side))))
    assert result == "(2000, 2000, 3)"
    assert grown < 450


def test_a_large_file_is_shrunk_by_a_whole_factor() -> None:
    large = np.kron(ramp(), np.ones((50, 50), np.uint8))  # 3200 x 2400: each level is a square
    assert large.size > SHRINK_PIXELS
    for data in (saved(Image.fromarray(large)), saved(Image.fromarray(large.astype(np.uint16) * 16))):
        np.testing.assert_array_equal(decode_frame(data), np.repeat(large[::2, ::2, None], 3, axis=2))
    assert decode_frame(saved(Image.fromarray(large)), shrink_to=large.size).shape == (2400, 3200, 3)


def test_a_limit_of_the_caller_holds() -> None:
    data = saved(Image.fromarray(ramp()))
    assert decode_frame(data, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(RejectedError, match="64 x 48") as caught:
        decode_frame(data, max_pixels=48 * 64 - 1)
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animated_file_is_no_key_frame(kind: str) -> None:
    frames = [Image.fromarray(np.roll(colours(), shift, axis=1)) for shift in range(3)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert reason(data) is Reason.NOT_AN_IMAGE


def test_a_photograph_with_a_preview_is_its_first_picture() -> None:
    first, second = (Image.fromarray(np.full((48, 64, 3), level, np.uint8)) for level in (200, 10))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    assert abs(int(decode_frame(data).mean()) - 200) < 3


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    assert reason(saved(Image.fromarray(GREY), kind)) is Reason.NOT_AN_IMAGE


def test_bytes_that_are_no_picture_are_refused() -> None:
    assert reason(b"") is Reason.EMPTY_OBJECT
    for data in (b"hello", b"\x89PNG\r\n\x1a\n", bytes(1000), b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        assert reason(data) is Reason.NOT_AN_IMAGE


def test_a_picture_of_no_rows_is_no_image() -> None:
    assert reason(png(64, 0, 8, 0, b"")) in (Reason.NOT_AN_IMAGE, Reason.TRUNCATED)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    data = saved(Image.fromarray(colours(128, 96)), kind)
    found = {reason(data[:length]) for length in range(1, len(data) * 9 // 10, len(data) // 60)}
    assert found <= {Reason.NOT_AN_IMAGE, Reason.TRUNCATED}
    assert reason(data[: len(data) * 3 // 4]) in found


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_bytes_are_decoded_or_refused(kind: str) -> None:
    rng = np.random.default_rng(1)
    data = saved(Image.fromarray(colours()), kind)
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 3):
            damaged[place] = rng.integers(0, 256)
        with suppress(RejectedError):
            assert decode_frame(bytes(damaged)).shape[2] == 3


@pytest.mark.parametrize(
    "image",
    [
        ramp(),
        ramp()[:, :, None],
        GREY,
        np.dstack([GREY, HIDDEN]),
        np.dstack([ramp(), HIDDEN]),
        ramp().astype(np.uint16) * 16,
        (ramp().astype(np.uint16) * 257).astype(">u2"),
        np.dstack([ramp().astype(np.uint16) * 16, OPAQUE.astype(np.uint16) * 257]),
        ramp().astype(np.int32) * 16,
        ramp().astype(np.int64) * 257,
    ],
    ids=[
        "grey",
        "grey-3d",
        "rgb",
        "rgba",
        "grey-alpha",
        "12-bit",
        "big-endian",
        "12-bit-alpha",
        "int32",
        "int64",
    ],
)
def test_every_kind_of_array_gives_the_same_pixels(image: np.ndarray) -> None:
    np.testing.assert_array_equal(as_rgb(image), GREY)


def test_a_mask_is_black_and_white_and_a_black_16_bit_frame_stays_black() -> None:
    assert np.unique(as_rgb(ramp() > 100)).tolist() == [0, 255]
    assert as_rgb(np.zeros((64, 64), np.uint16)).max() == 0


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((0, 0), np.uint8), Reason.NOT_AN_IMAGE),
        (np.zeros((0, 64, 64), np.uint8), Reason.NOT_AN_IMAGE),
        (np.zeros((64, 64, 0), np.uint8), Reason.NOT_AN_IMAGE),
        (np.zeros((1, 1), np.uint8), Reason.NOT_AN_IMAGE),
        (np.zeros((2, 64, 64, 3), np.uint8), Reason.NOT_AN_IMAGE),
        (np.zeros((64, 64), np.float32), Reason.NOT_AN_IMAGE),
        (np.full((64, 64), np.nan), Reason.NOT_AN_IMAGE),
        (np.full((64, 64), -1, np.int16), Reason.NOT_AN_IMAGE),
        (np.full((64, 64), 70_000, np.int32), Reason.NOT_AN_IMAGE),
        (np.full((64, 64), None), Reason.NOT_AN_IMAGE),
        (np.zeros((64, 64), "datetime64[s]"), Reason.NOT_AN_IMAGE),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), Reason.TOO_LARGE),
        (np.broadcast_to(np.uint8(0), (9_000, 9_000)), Reason.TOO_LARGE),
    ],
)
def test_an_array_that_is_no_frame_is_rejected(image: np.ndarray, expected: Reason) -> None:
    with pytest.raises(RejectedError) as caught:
        as_rgb(image)
    assert caught.value.reason is expected
