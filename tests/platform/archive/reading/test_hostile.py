"""Objects that claim more than they hold: refused before anything is allocated, whatever their kind."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import as_ultrasound, encapsulated, jpeg, picture, real_file, speckle, ultrasound
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from sonoloop.platform.archive.reading import deflated
from sonoloop.platform.archive.reading.codestream import read_codestream
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError

HERE = Path(__file__).parent
NUM_EXAMPLES = os.environ.get("SONOLOOP_FUZZ_EXAMPLES", "250")
"""Damaged objects to try; a night's worth is 100000."""
HUGE = 60_000
ADOBE_OF_NO_KIND = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\xd6"


def saved(kind: str, num_frames: int = 1) -> bytearray:
    frames = [Image.fromarray(frame) for frame in speckle(1, frames=3, channels=3)[:num_frames]]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:]} if num_frames > 1 else {}
    frames[0].save(buffer, kind, **more)
    return bytearray(buffer.getvalue())


def huge_png() -> bytes:
    data = saved("PNG")
    data[16:24] = struct.pack(">LL", HUGE, HUGE)
    data[29:33] = struct.pack(">L", zlib.crc32(data[12:29]))
    return bytes(data)


def huge_gif() -> bytes:
    data = saved("GIF", 2)
    data[6:10] = struct.pack("<HH", HUGE, HUGE)
    return bytes(data)


def huge_bmp() -> bytes:
    data = saved("BMP")
    data[18:26] = struct.pack("<ll", HUGE, HUGE)
    return bytes(data)


def huge_tiff(*, tiled: bool) -> bytes:
    """Rows and columns, or the sides of a tile, of one strip's picture."""
    tags = [(256, HUGE), (257, HUGE), (258, 8), (259, 5), (262, 1), (273, 8), (277, 1), (279, 99)]
    if tiled:
        tags = [(256, 64), (257, 64), (258, 8), (259, 5), (262, 1), (277, 1), (322, HUGE), (323, HUGE)]
        tags += [(324, 8), (325, 99)]
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(500)


def huge_webp() -> bytes:
    data = saved("WEBP", 3)
    assert data[12:16] == b"VP8X"
    data[24:30] = (16_382).to_bytes(3, "little") * 2
    return bytes(data)


def huge_jpeg() -> bytes:
    stream = bytearray(jpeg(speckle(1)))
    place = stream.index(b"\xff\xc0") + 5
    stream[place : place + 4] = struct.pack(">HH", HUGE, HUGE)
    return bytes(stream)


def huge_j2k() -> bytes:
    stream = saved("JPEG2000")
    place = stream.index(b"\xff\x4f\xff\x51")
    stream[place + 8 : place + 16] = struct.pack(">LL", HUGE, HUGE)
    box = stream.index(b"ihdr") + 4
    stream[box : box + 8] = struct.pack(">LL", HUGE, HUGE)
    return bytes(stream)


def huge_jxl() -> bytes:
    """SizeHeader: not small, 30 bits of height, square."""
    bits = 0 | 3 << 1 | (HUGE - 1) << 3 | 1 << 33
    return b"\xff\x0a" + bits.to_bytes(5, "little") + bytes(saved("JXL"))[7:]


CLAIMS = {
    "DICOM": ultrasound(speckle(), Rows=65535, Columns=65535, NumberOfFrames=10_000),
    "DICOM frames": ultrasound(speckle(), NumberOfFrames=2**31 - 1),
    "PNG": huge_png(),
    "GIF": huge_gif(),
    "BMP": huge_bmp(),
    "TIFF": huge_tiff(tiled=False),
    "TIFF tile": huge_tiff(tiled=True),
    "animated WebP": huge_webp(),
    "JPEG": huge_jpeg(),
    "JPEG 2000": huge_j2k(),
    "JPEG XL": huge_jxl(),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_size_that_no_picture_has_is_refused_before_it_is_allocated(kind: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RejectedError) as refused:
        open_instance(io.BytesIO(CLAIMS[kind]), name="a")
    assert refused.value.reason == Reason.TOO_LARGE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (uid.JPEGBaseline8Bit, huge_jpeg()),
        (uid.JPEGLossless, huge_jpeg()),
        (uid.JPEGLSLossless, huge_jpeg()),
        (uid.JPEG2000, huge_j2k()),
        (uid.HTJ2K, huge_j2k()),
        ("1.2.840.10008.1.2.4.112", huge_jxl()),
    ],
)
def test_a_frame_that_claims_more_than_its_header_is_refused_before_it_is_decoded(
    syntax: str, stream: bytes
) -> None:
    pixels = speckle(1) if syntax in uid.JPEGTransferSyntaxes else speckle(1, channels=3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    instance = open_instance(io.BytesIO(encapsulated([stream], syntax, pixels)), name="a")
    with pytest.raises(RejectedError) as refused:
        instance.frame(0)
    assert refused.value.reason == Reason.UNREADABLE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB


def test_the_size_of_a_jpeg_xl_codestream_is_read_as_its_decoder_reads_it() -> None:
    for columns, rows in ((8, 8), (264, 200), (300, 200), (1_000, 3), (4_001, 999), (96, 54), (128, 96)):
        for options in ({}, {"use_container": True}):
            buffer = io.BytesIO()
            Image.new("L", (columns, rows)).save(buffer, "JXL", effort=1, **options)
            claims = read_codestream(buffer.getvalue())
            assert claims is not None
            assert (claims.rows, claims.columns) == (rows, columns)


def test_an_element_that_claims_gigabytes_allocates_nothing() -> None:
    data = ultrasound(speckle())
    place = data.index(b"\x28\x00\x02\x00")
    claim = b"\x27\x00\x10\x00OB\x00\x00" + (2**32 - 16).to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(RejectedError):
        open_instance(io.BytesIO(data[:place] + claim + data[place:]), name="a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_a_header_of_elements_without_end_is_refused() -> None:
    data = ultrasound(speckle())
    place = data.index(b"\x28\x00\x02\x00")
    filler = (b"\x27\x00\x10\x10UN\x00\x00" + (2**19).to_bytes(4, "little") + bytes(2**19)) * 40
    with pytest.raises(RejectedError) as refused:
        open_instance(io.BytesIO(data[:place] + filler + data[place:]), name="a")
    assert refused.value.reason == Reason.TOO_LARGE


def test_sequences_within_sequences_without_end_are_refused() -> None:
    data = ultrasound(speckle())
    place = data.index(b"\x28\x00\x02\x00")
    opening = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(RejectedError):
        open_instance(io.BytesIO(data[:place] + opening * 20_000 + data[place:]), name="a")


def test_a_deflated_object_that_inflates_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflated, "MAX_INFLATED_BYTES", 2**23)
    whole = real_file("image_dfl.dcm")
    start = 132 + 12 + int.from_bytes(whole[140:144], "little")  # behind the group length and its group
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = compressor.compress(bytes(2**28)) + compressor.flush()
    tracemalloc.start()
    with pytest.raises(RejectedError) as refused:
        open_instance(io.BytesIO(whole[:start] + bomb), name="a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.reason == Reason.TOO_LARGE
    assert peak < 2**26


def test_a_loop_of_gif_frames_without_end_is_refused() -> None:
    screen = b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x80\0\0" + bytes(6)
    tiny = b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    with pytest.raises(RejectedError) as refused:
        open_instance(io.BytesIO(screen + tiny * 25_000 + b"\x3b"), name="a")
    assert refused.value.reason == Reason.TOO_LARGE


def test_damaged_objects_of_every_kind_give_frames_or_refusals_within_memory_and_time() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", HERE / "fuzzing.py", NUM_EXAMPLES],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[2])]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    assert "ZIMMERMANN" not in done.stderr + done.stdout


@pytest.mark.parametrize("name", ["SC_rgb_jls_lossy_line.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_a_frame_that_makes_its_decoder_panic_abort_or_wait_is_refused(name: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(as_ultrasound(name)))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    broken = {
        "SC_rgb_jls_lossy_line.dcm": frame[: len(frame) // 2],  # CharLS looks for the end for 8 s
        "MR_small_RLE.dcm": frame[:64] + b"\x7f" * 5_000,  # pylibjpeg-rle panics
        "SC_rgb_jpeg_gdcm.dcm": frame[:2]
        + ADOBE_OF_NO_KIND
        + frame[2:],  # gdcm throws through the interpreter
    }[name]
    dataset.PixelData = encapsulate([broken + bytes(len(broken) % 2)])
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    before = time.process_time()
    accepts_it = name == "SC_rgb_jpeg_gdcm.dcm"  # libjpeg may pass over the unknown transform
    with (
        contextlib.suppress(RejectedError) if accepts_it else pytest.raises(RejectedError, match="truncated")
    ):
        open_instance(io.BytesIO(buffer.getvalue()), name="a").frame(0)
    assert time.process_time() - before < 4


def test_a_picture_whose_decoder_failed_once_fails_again() -> None:
    instance = open_instance(io.BytesIO(picture(1)[:-2_000]), name="a")
    for _ in range(3):
        with pytest.raises(RejectedError):
            instance.frame(0)


def test_pixels_of_an_array_are_not_allocated_before_they_are_there() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((8_000, 8_000), np.uint8))
    with pytest.raises(RejectedError) as refused:
        open_instance(io.BytesIO(buffer.getvalue()[:10_000]), name="a")
    assert refused.value.reason == Reason.TRUNCATED
