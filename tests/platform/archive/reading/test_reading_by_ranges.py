"""What opening an object and decoding one of its frames costs in bytes read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from dicom_files import COLUMNS, ROWS, encapsulated, jpeg, speckle, ultrasound
from pydicom.uid import JPEGBaseline8Bit

from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.reading.ranges import READ_AHEAD, RangedFile
from sonoloop.platform.errors import RejectedError


class CountingFile(io.BytesIO):
    """Counts the bytes that are read from it."""

    num_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.num_bytes += len(data)
        return data

    def taken(self) -> int:
        """Bytes read since the last call."""
        found, self.num_bytes = self.num_bytes, 0
        return found


class LongFile(io.RawIOBase):
    """A header and as many bytes of pixels as it promises, made up when they are read."""

    def __init__(self, header: bytes, num_pixel_bytes: int) -> None:
        self._header, self._size, self._place, self.num_bytes = header, len(header) + num_pixel_bytes, 0, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._place = offset + (self._size if whence == io.SEEK_END else 0)
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        end = min(self._place + size, self._size)
        data = self._header[self._place : end]
        data += bytes(end - self._place - len(data))
        self._place, self.num_bytes = end, self.num_bytes + len(data)
        return data


def cine_header(num_frames: int, pixels: np.ndarray, **header: object) -> bytes:
    """An explicit little-endian object up to its pixels, which are said to be ``num_frames`` of these."""
    data = ultrasound(pixels, NumberOfFrames=num_frames, **header)
    start = data.rindex(b"\xe0\x7f\x10\x00") + 8
    return data[:start] + (num_frames * pixels.nbytes).to_bytes(4, "little")


@pytest.mark.parametrize("identifiers", [{}, {"SOPInstanceUID": ""}], ids=["named", "nameless"])
def test_a_loop_of_100_mb_costs_little_to_open_and_one_frame_its_own_bytes(
    identifiers: dict[str, str],
) -> None:
    pixels = np.zeros((768, 1024, 3), np.uint8)
    file = LongFile(cine_header(42, pixels, **identifiers), 42 * pixels.nbytes)
    instance = open_instance(file, name="x")  # type: ignore[arg-type]
    assert instance.num_frames == 42
    assert file.num_bytes < (350_000 if identifiers else 100_000)
    before = file.num_bytes
    assert instance.frame(41).shape == pixels.shape
    assert file.num_bytes - before == pixels.nbytes


@pytest.mark.parametrize("table", ["basic_table", "extended_table"])
def test_with_an_offset_table_a_compressed_frame_costs_its_own_bytes(table: str) -> None:
    loop = np.random.default_rng(0).integers(0, 256, (12, 256, 320), dtype=np.uint8)
    frames = [jpeg(pixels) for pixels in loop]
    file = CountingFile(encapsulated(frames, JPEGBaseline8Bit, loop[0], **{table: True}))
    instance = open_instance(file, name="x")
    assert file.taken() < 3 * READ_AHEAD < sum(map(len, frames)) / 2
    instance.frame(7)
    assert file.taken() <= len(frames[7]) + 9


def test_without_an_offset_table_the_frames_are_found_once() -> None:
    loop = speckle(1, frames=4)
    frames = [jpeg(pixels) for pixels in loop]
    file = CountingFile(encapsulated(frames, JPEGBaseline8Bit, loop[0]))
    instance = open_instance(file, name="x")
    file.taken()
    for index in (3, 0, 2):
        instance.frame(index)
        assert file.taken() <= len(frames[index]) + 9


def test_a_volume_in_a_private_element_is_skipped() -> None:
    data = ultrasound(speckle(2))
    place = data.index(b"\x28\x00\x02\x00")  # private elements of group 0027 come before group 0028
    volume = (
        b"\x27\x00\x10\x00LO\x06\x00MAKER "
        + b"\x27\x00\x01\x10OB\x00\x00"
        + (5_000_000).to_bytes(4, "little")
    )
    file = CountingFile(data[:place] + volume + bytes(5_000_000) + data[place:])
    instance = open_instance(file, name="x")
    assert file.taken() < 300_000
    assert instance.dataset is not None
    assert (0x0027, 0x1001) not in instance.dataset
    np.testing.assert_array_equal(instance.frame(0), speckle(2))


def test_the_dataset_holds_the_header_without_pixels_and_offset_tables() -> None:
    loop = speckle(3, frames=3)
    data = encapsulated([jpeg(p) for p in loop], JPEGBaseline8Bit, loop[0], extended_table=True)
    dataset = open_instance(io.BytesIO(data), name="x").dataset
    assert dataset is not None
    assert dataset.PatientID == "PID-471108"
    assert not {"PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"} & set(dataset.dir())


def test_nameless_objects_that_differ_deep_in_their_pixels_stay_apart() -> None:
    loop = np.zeros((30, ROWS, COLUMNS), np.uint8)
    changed = loop.copy()
    changed[-1, -1, -1] = 1
    one, other, again = (
        open_instance(io.BytesIO(ultrasound(pixels, frames=30, SOPInstanceUID="")), name="x").instance_uid
        for pixels in (loop, changed, loop)
    )
    assert one != other
    assert one == again


def test_a_ranged_file_reads_as_the_file_does_and_never_past_its_end() -> None:
    data = np.random.default_rng(0).bytes(200_000)
    file = RangedFile(io.BytesIO(data))
    assert file.read(10) == data[:10]
    assert file.read_at(150_000, 10**12) == data[150_000:]
    assert file.read(2**62) == data[10:]
    joined = file.joined([(5, 9), (100, 100), (199_990, 200_000)])
    assert joined.read() == data[5:9] + data[199_990:]
    assert joined.seek(-3, io.SEEK_END) == 11
    assert joined.read(99) == data[-3:]


def test_a_limit_on_reading_holds_until_it_is_lifted() -> None:
    file = RangedFile(io.BytesIO(bytes(100)))
    file.limit_reading(50)
    file.read(30)
    with pytest.raises(RejectedError):
        file.read(30)
    file.limit_reading(None)
    assert len(file.read(30)) == 30
