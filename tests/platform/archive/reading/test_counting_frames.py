"""``NumberOfFrames`` and offset tables that lie: the frames that the data hold are the frames there are."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from dicom_files import encapsulated, jpeg, real_file, speckle, ultrasound
from pydicom.uid import JPEGBaseline8Bit

from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError

LOOP = speckle(1, frames=5)
FRAMES = [jpeg(pixels) for pixels in LOOP]


def opened(data: bytes) -> Instance:
    return open_instance(io.BytesIO(data), name="x")


def compressed(**options: Any) -> bytes:
    return encapsulated(FRAMES, JPEGBaseline8Bit, LOOP[0], **options)


def assert_holds_the_loop(instance: Instance, num_frames: int = 5) -> None:
    assert instance.num_frames == num_frames
    for index in range(num_frames):
        np.testing.assert_allclose(instance.frame(index), LOOP[index], atol=40)  # quality 95, noise
        assert np.abs(instance.frame(index).astype(int) - LOOP[index]).mean() < 3
    with pytest.raises(RejectedError) as refused:
        instance.frame(num_frames)
    assert refused.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize("claimed", [None, 1, 3, 5, 700])
def test_uncompressed_frames_are_counted_by_their_length(claimed: int | None) -> None:
    assert_holds_the_loop(opened(ultrasound(LOOP, frames=5, NumberOfFrames=claimed)))


@pytest.mark.parametrize("claimed", [1, 3, 5, 700, ""])
@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("table", [{}, {"basic_table": True}], ids=["without table", "with table"])
def test_compressed_frames_are_counted_by_their_starts(
    claimed: int, fragments: int, table: dict[str, bool]
) -> None:
    assert_holds_the_loop(opened(compressed(fragments=fragments, NumberOfFrames=claimed, **table)))


@pytest.mark.parametrize("claimed", [1, 3, 5, 700])
def test_an_extended_table_of_another_length_than_the_claim_is_not_needed(claimed: int) -> None:
    assert_holds_the_loop(opened(compressed(extended_table=True, NumberOfFrames=claimed)))


@pytest.mark.parametrize(("entry", "offset"), [(2, 0), (2, 10**6), (4, 10**6), (0, 4)])
def test_a_table_that_points_astray_is_not_believed(entry: int, offset: int) -> None:
    data = bytearray(compressed(basic_table=True))
    place = data.index(b"\xfe\xff\x00\xe0\x14\x00\x00\x00") + 8 + 4 * entry
    data[place : place + 4] = offset.to_bytes(4, "little")
    assert_holds_the_loop(opened(bytes(data)))


@pytest.mark.parametrize("cut", [1, 2_000, 20_000])
def test_of_a_cut_off_loop_the_whole_frames_remain(cut: int) -> None:
    assert_holds_the_loop(opened(ultrasound(LOOP, frames=5)[:-cut]), 5 - -(-cut // LOOP[0].nbytes))
    whole = compressed()
    ends = np.cumsum([8 + len(frame) + len(frame) % 2 for frame in FRAMES])
    num_whole = int((ends <= ends[-1] + 8 - cut).sum())
    assert_holds_the_loop(opened(whole[:-cut]), num_whole)
    assert_holds_the_loop(opened(compressed(basic_table=True)[:-cut]), num_whole)
    assert_holds_the_loop(opened(compressed(extended_table=True)[:-cut]), num_whole)


def test_a_real_loop_that_lost_its_end_keeps_its_whole_frames() -> None:
    assert opened(real_file("examples_ybr_color.dcm")[:-5_000]).num_frames == 29


@pytest.mark.parametrize("data", [ultrasound(LOOP[0])[:-500], compressed()[: -sum(map(len, FRAMES))]])
def test_an_object_without_one_whole_frame_is_refused(data: bytes) -> None:
    with pytest.raises(RejectedError) as refused:
        opened(data)
    assert refused.value.reason == Reason.TRUNCATED


def test_more_frames_than_any_loop_has_are_refused_however_they_are_hidden() -> None:
    tiny = ultrasound(np.zeros((25_000, 2, 2), np.uint8), frames=25_000, NumberOfFrames=1)
    items = encapsulated([b"\xff\xd8" for _ in range(25_000)], JPEGBaseline8Bit, LOOP[0], NumberOfFrames=1)
    for data in (tiny, items):
        with pytest.raises(RejectedError) as refused:
            opened(data)
        assert refused.value.reason == Reason.TOO_LARGE


def test_compressed_pixels_under_a_native_length_and_the_reverse_are_refused() -> None:
    native = ultrasound(LOOP[0]).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1)
    with pytest.raises(RejectedError) as refused:
        opened(native)
    assert refused.value.reason == Reason.UNREADABLE
