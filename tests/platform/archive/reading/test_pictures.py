"""Plain pictures: formats, depths, orientation, loops of pages."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from dicom_files import COLUMNS, ROWS, speckle
from PIL import Image, ImageOps

from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError

GREY, COLOUR = speckle(1), speckle(2, channels=3)
LOOP = speckle(3, frames=4, channels=3) // 64 * 64
"""Few colours, so that a GIF's palette holds them."""


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes, name: str = "a/b") -> Instance:
    return open_instance(io.BytesIO(data), name=name)


def refusal(data: bytes, *, frame: int | None = None) -> Reason:
    try:
        instance = opened(data)
        if frame is not None:
            instance.frame(frame)
    except RejectedError as err:
        return err.reason
    raise AssertionError("the picture was accepted")


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
        ("JXL", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_pixels_whatever_the_name_says(
    pixels: np.ndarray, kind: str, options: dict[str, Any]
) -> None:
    instance = opened(saved(pixels, kind, **options), name="a/b.jpg")
    assert (instance.rows, instance.columns, instance.num_frames) == (ROWS, COLUMNS, 1)
    frame = instance.frame(0)
    expected = pixels if kind != "WEBP" or pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JXL"])
def test_lossy_formats_come_close(kind: str) -> None:
    smooth = np.asarray(
        Image.fromarray(COLOUR).resize((8, 6)).resize((COLUMNS, ROWS), Image.Resampling.BICUBIC)
    )
    frame = opened(saved(smooth, kind, quality=95)).frame(0)
    assert np.abs(frame.astype(int) - smooth).mean() < 4


def test_sixteen_bits_are_scaled_and_alpha_is_dropped() -> None:
    deep = (np.arange(ROWS * COLUMNS, dtype=np.uint16) * 5).reshape(ROWS, COLUMNS)
    for kind in ("PNG", "TIFF"):
        frame = opened(saved(deep, kind)).frame(0)
        np.testing.assert_allclose(frame, (deep - deep.min()) / np.ptp(deep) * 255, atol=1)
    with_alpha = np.dstack([COLOUR, GREY])
    np.testing.assert_array_equal(opened(saved(with_alpha, "PNG")).frame(0), COLOUR)
    grey_alpha = Image.fromarray(np.dstack([GREY, GREY]), "LA")
    np.testing.assert_array_equal(opened(saved(grey_alpha, "PNG")).frame(0), GREY)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK"])
def test_other_modes_are_what_pillow_shows(mode: str) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    frame = opened(saved(picture, "TIFF")).frame(0)
    np.testing.assert_array_equal(frame, np.asarray(picture.convert("L" if mode == "1" else "RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_as_its_exif_orientation_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(COLOUR, kind, exif=exif)
    instance = opened(data)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(instance.frame(0), upright)
    assert (instance.rows, instance.columns) == upright.shape[:2]
    if kind != "JPEG2000":  # Pillow writes no EXIF there
        assert (upright.shape[0] == COLUMNS) == (orientation >= 5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {"duration": 40, "loop": 0}),
        ("WEBP", {"lossless": True, "duration": 40}),
        ("PNG", {"duration": 40}),
        ("TIFF", {}),
    ],
)
def test_pages_and_animations_are_loops(kind: str, options: dict[str, Any]) -> None:
    pages = [Image.fromarray(frame) for frame in LOOP]
    instance = opened(saved(pages[0], kind, save_all=True, append_images=pages[1:], **options))
    assert instance.num_frames == len(LOOP)
    for index in (3, 0, 2, 1, 3):
        np.testing.assert_array_equal(instance.frame(index), LOOP[index])
    with pytest.raises(RejectedError):
        instance.frame(len(LOOP))


def test_every_frame_of_a_grey_animation_has_the_same_shape() -> None:
    pages = [Image.fromarray(GREY // step) for step in (1, 2, 3)]
    instance = opened(saved(pages[0], "GIF", save_all=True, append_images=pages[1:]))
    assert {instance.frame(index).shape for index in range(instance.num_frames)} == {(ROWS, COLUMNS, 3)}


def test_the_thumbnail_page_of_a_tiff_is_no_frame() -> None:
    pages = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::4, ::4]), Image.fromarray(COLOUR // 2)]
    instance = opened(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert instance.num_frames == 2
    np.testing.assert_array_equal(instance.frame(1), COLOUR // 2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_a_cut_off_picture_is_refused(kind: str) -> None:
    data = saved(COLOUR, kind)
    assert refusal(data[: len(data) // 2], frame=0) in (Reason.TRUNCATED, Reason.NOT_AN_IMAGE)


def test_formats_that_start_other_programs_are_not_tried() -> None:
    assert "EPS" in Image.registered_extensions().values()
    assert refusal(saved(COLOUR, "EPS")) == Reason.NOT_AN_IMAGE
