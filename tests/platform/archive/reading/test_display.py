"""From stored samples to what the screen showed: palettes and windows."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import COLUMNS, ROWS, real_file, speckle, ultrasound
from pydicom.pixels import apply_color_lut, apply_windowing, pixel_array

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError

COLOURS = ("Red", "Green", "Blue")
GREY = speckle(1)


def frame_of(data: bytes) -> Frame:
    return open_instance(io.BytesIO(data), name="x").frame(0)


def with_palette(
    pixels: np.ndarray, tables: list[bytes], descriptor: tuple[int, int, int], prefix: str = "", **header: Any
) -> bytes:
    names = [f"{colour}PaletteColorLookupTable" for colour in COLOURS]
    palette = {f"{name}Descriptor": list(descriptor) for name in names}
    data = {f"{prefix}{name}Data": table for name, table in zip(names, tables, strict=True)}
    return ultrasound(pixels, photometric="PALETTE COLOR", **palette, **data, **header)


def refusal(data: bytes) -> Reason:
    with pytest.raises(RejectedError) as refused:
        frame_of(data)
    return refused.value.reason


def test_a_palette_of_16_bits_keeps_its_brightness_whatever_the_frame_spans() -> None:
    tables = [(np.arange(256, dtype=np.uint16) * 257 // step).tobytes() for step in (1, 2, 4)]
    dark = GREY // 4
    frame = frame_of(with_palette(dark, tables, (256, 0, 16)))
    for channel, step in enumerate((1, 2, 4)):
        np.testing.assert_allclose(frame[..., channel], dark / step, atol=1)


@pytest.mark.parametrize("entry", ["u1", "<u2"])
def test_a_palette_of_8_bits_may_lie_in_entries_of_8_or_16(entry: str) -> None:
    tables = [((np.arange(256) * step) % 256).astype(entry).tobytes() for step in (1, 3, 5)]
    frame = frame_of(with_palette(GREY, tables, (256, 0, 8 if entry == "u1" else 16)))
    for channel, step in enumerate((1, 3, 5)):
        np.testing.assert_array_equal(frame[..., channel], GREY.astype(int) * step % 256)


def test_pixels_below_and_above_a_palette_take_its_ends() -> None:
    table = np.arange(100, 200, dtype=np.uint8).tobytes()
    frame = frame_of(with_palette(GREY, [table] * 3, (100, 50, 8)))
    np.testing.assert_array_equal(frame[..., 0], np.clip(GREY.astype(int) - 50, 0, 99) + 100)


def test_signed_pixels_of_16_bits_are_looked_up_from_a_negative_start() -> None:
    pixels = (np.arange(ROWS * COLUMNS) % 512 - 256).astype(np.int16).reshape(ROWS, COLUMNS)
    table = (np.arange(512) // 2).astype(np.uint8).tobytes()
    data = with_palette(pixels, [table] * 3, (512, -256, 8), PixelRepresentation=1)
    np.testing.assert_array_equal(frame_of(data)[..., 0], (pixels + 256) // 2)


def test_a_segmented_palette_gives_what_pydicom_makes_of_it() -> None:
    segments = struct.pack("<9H", 0, 2, 0, 1000, 1, 254, 65535, 0, 0)[: 2 * 7]
    data = with_palette(GREY, [segments] * 3, (256, 0, 16), "Segmented")
    dataset = pydicom.dcmread(io.BytesIO(data))
    second = apply_color_lut(pixel_array(dataset), dataset) >> 8
    np.testing.assert_array_equal(frame_of(data), second)
    assert np.ptp(frame_of(data)) > 200


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        (struct.pack("<3H", 1, 65535, 9) * 20_000, Reason.TOO_LARGE),
        (struct.pack("<4H", 2, 60_000, 0, 0), Reason.UNREADABLE),
    ],
)
def test_segments_that_claim_more_than_a_palette_holds_are_refused(segments: bytes, reason: Reason) -> None:
    assert refusal(with_palette(GREY, [segments] * 3, (256, 0, 16), "Segmented")) == reason


def test_a_palette_that_is_too_short_is_refused() -> None:
    assert refusal(with_palette(GREY, [bytes(10)] * 3, (0, 0, 16))) == Reason.UNREADABLE


def test_one_picture_has_the_same_colours_in_either_byte_order() -> None:
    for little, big in (
        ("OBXXXX1A.dcm", "OBXXXX1A_expb.dcm"),
        ("gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"),
    ):
        np.testing.assert_array_equal(frame_of(real_file(little)), frame_of(real_file(big)))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_window_of_a_deep_picture_is_applied_as_pydicom_applies_it(function: str) -> None:
    pixels = (np.arange(ROWS * COLUMNS) % 4096).astype(np.uint16).reshape(ROWS, COLUMNS)
    window = {"WindowCenter": 1000, "WindowWidth": 1500, "VOILUTFunction": function}
    data = ultrasound(pixels, BitsStored=12, HighBit=11, **window)
    second = apply_windowing(pixels, pydicom.dcmread(io.BytesIO(data)))
    np.testing.assert_allclose(frame_of(data), second / 4095 * 255, atol=0.6)


def test_deep_pixels_are_rescaled_before_their_window_is_applied() -> None:
    pixels = (np.arange(ROWS * COLUMNS) % 4096).astype(np.uint16).reshape(ROWS, COLUMNS)
    header = {"WindowCenter": 1000, "WindowWidth": 1500, "RescaleSlope": 2, "RescaleIntercept": -100}
    frame = frame_of(ultrasound(pixels, BitsStored=12, HighBit=11, **header))
    expected = ((2.0 * pixels - 100 - 999.5) / 1499 + 0.5).clip(0, 1) * 255  # PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(frame, expected, atol=0.6)


def test_deep_pixels_without_a_window_span_the_frame_and_shallow_ones_stay() -> None:
    pixels = np.linspace(300, 900, ROWS * COLUMNS).astype(np.uint16).reshape(ROWS, COLUMNS)
    frame = frame_of(ultrasound(pixels, BitsStored=12, HighBit=11))
    assert (frame.min(), frame.max()) == (0, 255)
    shallow = frame_of(ultrasound(GREY.astype(np.uint16) // 2, BitsStored=8, HighBit=7))
    np.testing.assert_array_equal(shallow, GREY // 2)


def test_the_window_of_an_8_bit_picture_is_left_alone() -> None:
    np.testing.assert_array_equal(frame_of(ultrasound(GREY, WindowCenter=40, WindowWidth=20)), GREY)
