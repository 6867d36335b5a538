"""Key frames: spread over the loop, sharp, few decoded."""

from __future__ import annotations

import numpy as np
import pytest

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.keyframes import CANDIDATES_PER_KEY_FRAME, choose_key_frames, sharpness


class Loop:
    """Flat frames, except the sharp ones; remembers what was decoded."""

    def __init__(self, *sharp: int) -> None:
        self.sharp = sharp
        self.decoded: list[int] = []

    def __call__(self, index: int) -> Frame:
        self.decoded.append(index)
        board = np.indices((16, 16)).sum(axis=0) % 2 * 255
        return (board if index in self.sharp else np.full_like(board, 128)).astype(np.uint8)


def test_a_short_loop_is_taken_whole_without_decoding() -> None:
    loop = Loop()
    assert choose_key_frames(2, 3, loop) == [0, 1]
    assert loop.decoded == []


def test_the_sharpest_candidate_of_each_stretch_is_taken() -> None:
    assert choose_key_frames(8, 2, Loop(2, 5)) == [2, 5]


@pytest.mark.parametrize(("num_frames", "wanted"), [(3, 2), (30, 1), (30, 4), (1000, 2)])
def test_key_frames_ascend_lie_in_the_loop_and_few_are_decoded(num_frames: int, wanted: int) -> None:
    loop = Loop(num_frames - 1)
    chosen = choose_key_frames(num_frames, wanted, loop)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == wanted
    assert set(chosen) <= set(range(num_frames))
    assert chosen[-1] == num_frames - 1
    assert len(loop.decoded) <= wanted * CANDIDATES_PER_KEY_FRAME
    assert choose_key_frames(num_frames, wanted, Loop(num_frames - 1)) == chosen


def test_blur_lowers_sharpness_for_grey_and_colour_alike() -> None:
    sharp = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    blurred = ((sharp.astype(int) + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1)) // 3).astype(np.uint8)
    assert sharpness(blurred) < sharpness(sharp)
    assert sharpness(np.stack([sharp] * 3, axis=-1)) == pytest.approx(sharpness(sharp), rel=1e-4)


def test_a_frame_without_an_inner_pixel_has_no_sharpness() -> None:
    assert sharpness(np.zeros((2, 9), dtype=np.uint8)) == 0.0
