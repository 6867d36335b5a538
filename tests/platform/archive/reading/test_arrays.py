"""NumPy arrays as frames and loops."""

from __future__ import annotations

import io

import numpy as np
import pytest
from dicom_files import speckle

from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.reading.pixels import to_uint8
from sonoloop.platform.errors import Reason, RejectedError


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str) -> bytes:
    """A file of version 1.0 with this header and no values."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def refusal(data: bytes) -> Reason:
    with pytest.raises(RejectedError) as refused:
        open_instance(io.BytesIO(data), name="a")
    return refused.value.reason


@pytest.mark.parametrize(
    "array",
    [
        speckle(1),
        speckle(1, channels=3),
        speckle(1, frames=5),
        speckle(1, frames=5, channels=3),
        speckle(1, frames=5).astype(">u2") * 7,
        speckle(1, frames=5).astype(np.float32) - 99.5,
        speckle(1) > 99,
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_an_array_is_a_frame_or_a_loop(array: np.ndarray) -> None:
    colour = array.shape[-1] == 3
    frames = array if array.ndim - colour == 3 else array[None]
    instance = open_instance(io.BytesIO(npy(array)), name="liver/a.png")
    assert (instance.num_frames, instance.rows, instance.columns) == frames.shape[:3]
    assert instance.facts.organ_hint == "liver"
    for index in reversed(range(len(frames))):
        np.testing.assert_array_equal(instance.frame(index), to_uint8(frames[index]))


def test_the_whole_frames_of_a_cut_off_array_remain() -> None:
    loop = speckle(2, frames=5)
    instance = open_instance(io.BytesIO(npy(loop)[:-1]), name="a")
    assert instance.num_frames == 4
    assert refusal(npy(loop[0])[:-1]) == Reason.TRUNCATED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy(np.array([{"a": 1}], dtype=object)), Reason.UNREADABLE),
        (npy(np.zeros(3, dtype=[("a", "i4")])), Reason.UNREADABLE),
        (npy(np.array(["text"])), Reason.UNREADABLE),
        (npy(np.asfortranarray(speckle())), Reason.UNREADABLE),
        (npy(np.zeros((2, 2, 2, 2, 2))), Reason.NOT_AN_IMAGE),
        (npy(np.zeros(9)), Reason.NOT_AN_IMAGE),
        (npy(np.zeros((0, 9))), Reason.NO_PIXELS),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (65535, 65535)}"), Reason.TOO_LARGE),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 9, 9)}"), Reason.UNREADABLE),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (999999999, 9, 9)}"), Reason.TOO_LARGE),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-9, 9)}"), Reason.UNREADABLE),
        (header("__import__('os')"), Reason.UNREADABLE),
        (b"\x93NUMPY\x09\x00", Reason.UNREADABLE),
    ],
)
def test_what_is_no_array_of_plausible_size_is_refused(data: bytes, reason: Reason) -> None:
    assert refusal(data) == reason
