"""Opening archive objects: what is read, what is refused, and that nothing else ever comes out."""

from __future__ import annotations

import io
import logging
import random
import resource
import warnings

import numpy as np
import pytest
from dicom_files import COLUMNS, REGION, ROWS, STUDY, picture, real_file, speckle, ultrasound
from pydicom.uid import ExplicitVRBigEndian

from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading import open as reading
from sonoloop.platform.archive.reading.pixels import to_uint8
from sonoloop.platform.archive.sense.regions import Region
from sonoloop.platform.errors import Reason, RejectedError


def open_instance(data: bytes, *, name: str) -> Instance:
    return reading.open_instance(io.BytesIO(data), name=name)


def bounds(region: Region) -> tuple[int, int, int, int]:
    return region.left, region.top, region.right, region.bottom


def refusal(data: bytes, *, frame: int | None = None) -> RejectedError:
    """The rejection of an object at opening, or at decoding one frame."""
    try:
        instance = open_instance(data, name="a/b.dcm")
        if frame is not None:
            instance.frame(frame)
    except RejectedError as err:
        return err
    raise AssertionError("the object was accepted")


def test_a_single_frame_is_read_with_its_region_organ_and_maker() -> None:
    pixels = speckle(1)
    instance = open_instance(ultrasound(pixels), name="x")
    assert (instance.rows, instance.columns, instance.num_frames) == (ROWS, COLUMNS, 1)
    assert [bounds(region) for region in instance.regions] == [REGION]
    assert (instance.facts.organ_hint, instance.facts.scanner) == ("liver", "Maker Model 1")
    np.testing.assert_array_equal(instance.frame(0), pixels)


def test_identifiers_do_not_show_when_an_instance_is_printed() -> None:
    text = repr(open_instance(ultrasound(speckle()), name="x"))
    assert "PID-471108" not in text
    assert "1.2.826.0.1.3680043" not in text


def test_monochrome1_is_turned_so_that_bright_is_255() -> None:
    pixels = speckle(2)
    frame = open_instance(ultrasound(pixels, photometric="MONOCHROME1"), name="x").frame(0)
    np.testing.assert_array_equal(frame, 255 - pixels)


def test_sixteen_bits_are_scaled_by_the_frames_own_range() -> None:
    pixels = np.linspace(1000, 3000, ROWS * COLUMNS).astype(np.uint16).reshape(ROWS, COLUMNS)
    frame = open_instance(ultrasound(pixels), name="x").frame(0)
    assert frame.dtype == np.uint8
    assert (frame.min(), frame.max()) == (0, 255)
    assert np.all(np.diff(frame.ravel().astype(int)) >= 0)


def test_colour_by_plane_gives_the_same_picture_as_colour_by_pixel() -> None:
    pixels = speckle(3, channels=3)
    planar = ultrasound(pixels, PlanarConfiguration=1, PixelData=np.moveaxis(pixels, -1, 0).tobytes())
    for data in (ultrasound(pixels), planar):
        np.testing.assert_array_equal(open_instance(data, name="x").frame(0), pixels)


def test_a_palette_is_looked_up() -> None:
    red, green, blue = (np.arange(256, dtype=np.uint16) * 256 // step for step in (1, 2, 4))
    pixels = speckle(4)
    pixels[0, :2] = (0, 255)  # so that the frame spans the palette
    header = {
        f"{name}PaletteColorLookupTable{part}": value
        for name, table in (("Red", red), ("Green", green), ("Blue", blue))
        for part, value in (("Descriptor", [256, 0, 16]), ("Data", table.tobytes()))
    }
    frame = open_instance(ultrasound(pixels, photometric="PALETTE COLOR", **header), name="x").frame(0)
    assert frame.shape == (ROWS, COLUMNS, 3)
    np.testing.assert_allclose(frame[..., 0], pixels, atol=1)
    np.testing.assert_allclose(frame[..., 2], pixels / 4, atol=1)


def test_frames_of_a_loop_are_counted_from_zero() -> None:
    loop = speckle(5, frames=5)
    instance = open_instance(ultrasound(loop, frames=5), name="x")
    assert instance.num_frames == 5
    for index in range(5):
        np.testing.assert_array_equal(instance.frame(index), loop[index])


@pytest.mark.parametrize(
    ("name", "size", "num_regions"),
    [
        ("examples_ybr_color.dcm", (240, 320), 1),
        ("examples_palette.dcm", (350, 800), 1),
        ("examples_jpeg2k.dcm", (480, 640), 0),
        ("examples_rgb_color.dcm", (240, 320), 0),
        ("ExplVR_BigEnd.dcm", (60, 80), 0),
    ],
)
def test_the_real_files_of_pydicom_are_read(name: str, size: tuple[int, int], num_regions: int) -> None:
    instance = open_instance(real_file(name), name=name)
    assert len(instance.regions) == num_regions
    for index in {0, instance.num_frames - 1}:
        frame = instance.frame(index)
        assert frame.shape == (*size, 3)
        assert frame.std() > 10


def test_a_region_that_leaves_the_picture_is_cut_and_one_outside_is_dropped() -> None:
    data = ultrasound(speckle(), regions=((100, 80, 500, 500), (200, 200, 300, 300)))
    regions = open_instance(data, name="x").regions
    assert [bounds(region) for region in regions] == [(100, 80, COLUMNS - 1, ROWS - 1)]


def test_objects_without_identifiers_stay_apart() -> None:
    nameless = {"SOPInstanceUID": "", "StudyInstanceUID": "", "PatientID": ""}
    one, other = (open_instance(ultrasound(speckle(seed), **nameless), name="x") for seed in (1, 2))
    for field in ("study_id", "patient_id", "instance_uid"):
        assert getattr(one, field)
        assert getattr(one, field) != getattr(other, field)


def test_a_plain_picture_takes_case_and_organ_from_its_folder() -> None:
    instance = open_instance(picture(), name="thyroid/case-7/a.png")
    assert (instance.study_id, instance.facts.organ_hint) == ("thyroid/case-7", "thyroid")
    assert open_instance(picture(), name="a.png").study_id == "a.png"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_the_usual_pictures_are_decoded(kind: str) -> None:
    frame = open_instance(picture(1, kind), name="a").frame(0)
    assert frame.dtype == np.uint8
    assert frame.shape[:2] == (ROWS, COLUMNS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_OBJECT),
        (b"this is a text, named .dcm\n" * 20, Reason.NOT_AN_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.NOT_AN_IMAGE),
        (b"\x00" * 128 + b"DICM" + b"\xff" * 64, Reason.TRUNCATED),
        (ultrasound(speckle(), Columns=None), Reason.UNREADABLE),
        (real_file("CT_small.dcm"), Reason.NOT_ULTRASOUND),
        (ultrasound(speckle(), Modality="SR"), Reason.NOT_ULTRASOUND),
        (ultrasound(speckle(), PixelData=None), Reason.NO_PIXELS),
        (ultrasound(speckle(), Rows=0), Reason.NO_PIXELS),
        (ultrasound(speckle(), Rows=65535, Columns=65535, NumberOfFrames=10000), Reason.TOO_LARGE),
        (ultrasound(speckle(), NumberOfFrames=10**9), Reason.TOO_LARGE),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_cannot_be_read_is_refused_with_its_reason(data: bytes, reason: Reason) -> None:
    assert refusal(data).reason == reason


@pytest.mark.parametrize("share", [0.999, 0.9, 0.6])
def test_a_truncated_copy_is_refused_when_its_frame_is_decoded(share: float) -> None:
    data = ultrasound(speckle(6, frames=10), frames=10)
    assert refusal(data[: int(len(data) * share)], frame=9).reason == Reason.TRUNCATED


def test_a_header_that_promises_more_frames_than_there_are_is_refused() -> None:
    assert refusal(ultrasound(speckle(), NumberOfFrames=10_000), frame=9_999).reason == Reason.TRUNCATED


@pytest.mark.parametrize(
    ("name", "marker", "skip", "width"),
    [
        ("examples_jpeg2k.dcm", b"\xff\x4f\xff\x51", 8, 4),
        ("examples_ybr_color.dcm", b"\xff\xc0\x00\x11", 5, 2),
    ],
)
def test_a_codestream_larger_than_its_header_is_refused_before_it_is_decoded(
    name: str, marker: bytes, skip: int, width: int
) -> None:
    data = bytearray(real_file(name))
    place = data.index(marker) + skip
    data[place : place + 2 * width] = (6_000).to_bytes(width, "big") * 2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(bytes(data), frame=0).reason == Reason.UNREADABLE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_a_refusal_quotes_nothing_of_the_object() -> None:
    secret = b"DOE^JANE^SECRET"
    for data in (secret * 40, b"\x00" * 128 + b"DICM" + secret * 40):
        assert "SECRET" not in str(refusal(data))


def test_neither_warnings_nor_log_lines_quote_a_header(caplog: pytest.LogCaptureFixture) -> None:
    data = ultrasound(speckle()).replace(STUDY.encode()[:10], b"ZIMMERMANN")  # no UID: pydicom objects
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, logger="pydicom"):
        warnings.simplefilter("error")
        assert "ZIMMERMANN" in open_instance(data, name="x").study_id
        open_instance(data, name="x").frame(0)
        refusal(data[:-500], frame=0)
    assert caplog.text == ""


def test_another_byte_order_gives_the_same_frame() -> None:
    pixels = speckle(7).astype(np.uint16) << 4
    little = open_instance(ultrasound(pixels), name="x")
    assert little.transfer_syntax != ExplicitVRBigEndian
    assert open_instance(real_file("ExplVR_BigEnd.dcm"), name="x").transfer_syntax == ExplicitVRBigEndian


def test_floats_with_holes_become_bytes() -> None:
    pixels = np.array([[np.nan, 1.0], [2.0, np.inf]], dtype=np.float32)
    assert to_uint8(pixels).tolist() == [[0, 127], [255, 0]]


def _variants(data: bytes, rng: random.Random, number: int) -> list[bytes]:
    found = []
    for _ in range(number):
        if rng.random() < 0.3:
            found.append(data[: rng.randrange(len(data))])
            continue
        altered = bytearray(data)
        reach = len(data) if rng.random() < 0.5 else min(len(data), 3000)  # half of them hit the header
        for _ in range(rng.choice((1, 3, 20))):
            altered[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        found.append(bytes(altered))
    return found


@pytest.mark.parametrize(
    "name", ["examples_ybr_color.dcm", "examples_jpeg2k.dcm", "ExplVR_BigEnd.dcm", "picture.png"]
)
def test_damaged_objects_give_a_frame_or_a_refusal_and_no_large_allocation(name: str) -> None:
    data = picture(8) if name.endswith("png") else real_file(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"read": 0, "refused": 0}
    for variant in _variants(data, random.Random(name), 80):
        try:
            instance = open_instance(variant, name=name)
            assert isinstance(instance, Instance)
            frame = instance.frame(0)
            assert frame.dtype == np.uint8
            assert frame.shape[:2] == (instance.rows, instance.columns)
            outcomes["read"] += 1
        except RejectedError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0 or name.endswith("png"), outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # KiB
