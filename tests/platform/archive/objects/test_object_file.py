"""An object is fetched in few ranges, and only where it is read."""

from __future__ import annotations

import io
import random

import pytest

from sonoloop.platform.archive.objects.ranged import FIRST_BYTES, LARGEST_AHEAD, ObjectFile
from sonoloop.platform.errors import RejectedError
from sonoloop.platform.workspace import ObjectInfo

DATA = random.Random(1).randbytes(20 * FIRST_BYTES + 77)


class Memory:
    """A source in memory that notes what is fetched."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data, self.fetched = data, list[tuple[int, int]]()
        self.info = ObjectInfo("x", len(data), "e")

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def fetch(self, start: int, stop: int) -> bytes:
        self.fetched.append((start, stop))
        return self.data[start:stop]


def test_any_walk_through_the_file_reads_what_a_file_would() -> None:
    rng, file, plain = random.Random(0), ObjectFile(Memory()), io.BytesIO(DATA)
    for _ in range(500):
        place = rng.choice([rng.randrange(len(DATA) + 100), rng.randrange(200)])
        size = rng.choice([rng.randrange(300), rng.randrange(3 * FIRST_BYTES), -1])
        assert file.seek(place) == plain.seek(place)
        assert file.read(size) == plain.read(size)
        assert file.tell() == plain.tell()
    assert file.seek(-5, io.SEEK_END) == len(DATA) - 5
    buffer = bytearray(10)
    assert file.readinto(buffer) == 5
    assert bytes(buffer[:5]) == DATA[-5:]
    with pytest.raises(ValueError, match="from 0 on"):
        file.seek(-1)


def test_a_header_costs_one_range_and_a_small_object_one_request() -> None:
    for data in (DATA, DATA[: FIRST_BYTES + 9], b"x"):
        source = Memory(data)
        file = ObjectFile(source)
        for _ in range(500):
            file.read(7)
        assert (len(source.fetched), file.requests) == (1, 1)
        assert file.bytes_read == min(
            len(data), 2 * FIRST_BYTES if len(data) < 2 * FIRST_BYTES else FIRST_BYTES
        )


def test_reading_straight_on_takes_ever_larger_ranges_and_a_jump_a_small_one() -> None:
    source = Memory(bytes(10 * LARGEST_AHEAD))
    file = ObjectFile(source)
    while file.tell() < 6 * LARGEST_AHEAD:
        file.read(1000)
    sizes = [stop - start for start, stop in source.fetched]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (FIRST_BYTES, LARGEST_AHEAD)
    file.seek(9 * LARGEST_AHEAD)
    file.read(10)
    assert source.fetched[-1] == (9 * LARGEST_AHEAD, 9 * LARGEST_AHEAD + FIRST_BYTES)


def test_a_frame_is_one_range_and_coming_back_to_it_none() -> None:
    source = Memory()
    file = ObjectFile(source)
    for _ in range(3):
        file.seek(5 * FIRST_BYTES)
        assert file.read(4 * FIRST_BYTES) == DATA[5 * FIRST_BYTES : 9 * FIRST_BYTES]
    assert source.fetched == [(5 * FIRST_BYTES, 9 * FIRST_BYTES)]


def test_an_object_that_ends_before_its_size_is_refused_and_the_fault_remembered() -> None:
    source = Memory()
    file = ObjectFile(source)
    source.data = DATA[:100]
    source.__class__ = type("Cut", (Memory,), {"size_bytes": property(lambda _: len(DATA))})
    with pytest.raises(RejectedError, match="ends before its size"):
        file.read(200)
    assert isinstance(file.fault, RejectedError)
