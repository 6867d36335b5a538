"""Key frames: spread over the loop, sharp, different, few decoded; and a budget across a case."""

from __future__ import annotations

import itertools
import random

import cv2
import numpy as np
import pydicom
import pytest
from tests.platform.archive.sense.headers_of import real_path

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.keyframes import (
    CANDIDATES_PER_KEY_FRAME,
    choose_key_frames,
    share_budget,
    sharpness,
)

BOARD = (np.indices((64, 64)) // 4).sum(axis=0) % 2 * 200 + 20


class Loop:
    """Soft frames that move on from one to the next, except the sharp ones; remembers what was decoded."""

    def __init__(self, *sharp: int, colour: bool = False) -> None:
        self.sharp = sharp
        self.colour = colour
        self.decoded: list[int] = []

    def __call__(self, index: int) -> Frame:
        self.decoded.append(index)
        board = np.roll(BOARD, index, axis=1).astype(np.uint8)
        frame = board if index in self.sharp else cv2.GaussianBlur(board, (9, 9), 0)
        return np.stack([frame] * 3, axis=-1) if self.colour else np.asarray(frame)


def test_a_short_loop_is_taken_whole_without_decoding() -> None:
    loop = Loop()
    assert choose_key_frames(2, 3, loop) == [0, 1]
    assert loop.decoded == []


@pytest.mark.parametrize("colour", [False, True])
def test_the_sharpest_candidate_of_each_stretch_is_taken(colour: bool) -> None:
    assert choose_key_frames(8, 2, Loop(2, 5, colour=colour)) == [2, 5]


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


def test_every_stretch_of_a_moving_loop_gives_one_frame() -> None:
    assert [index // 25 for index in choose_key_frames(100, 4, Loop(3, 4, 5))] == [0, 1, 2, 3]


def test_a_frozen_loop_gives_one_frame() -> None:
    frozen = BOARD.astype(np.uint8)
    assert len(choose_key_frames(60, 4, lambda _: frozen)) == 1


def test_a_frozen_stretch_adds_nothing_to_the_moving_rest() -> None:
    loop = Loop()
    chosen = choose_key_frames(80, 4, lambda index: loop(min(index, 30)))
    assert [index // 20 for index in chosen][:2] == [0, 1]
    assert sum(index >= 30 for index in chosen) <= 1


def test_blank_frames_are_passed_over_and_a_blank_loop_still_gives_one() -> None:
    noise = np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)
    loop = Loop()
    assert choose_key_frames(8, 1, lambda index: loop(index) if index == 5 else noise) == [5]
    assert choose_key_frames(8, 2, lambda _: noise) == [0]


def test_a_fade_loses_to_the_picture_that_it_fades_to() -> None:
    loop = Loop(*range(8))
    faded = [0.1, 0.3, 0.6, 0.6, 0.6, 1.0, 0.6, 0.3]
    assert choose_key_frames(8, 1, lambda index: (loop(index) * faded[index]).astype(np.uint8)) == [5]


def test_of_two_equally_sharp_frames_the_one_unlike_the_chosen_is_taken() -> None:
    first, other = (BOARD * 1.1).astype(np.uint8), np.roll(BOARD, 4, axis=1).astype(np.uint8)
    nearly = np.roll(BOARD, 1, axis=0).astype(np.uint8)
    frames = [first, first, first, first, nearly, nearly, other, nearly]
    assert choose_key_frames(8, 2, lambda index: frames[index])[1] == 6


def test_a_real_loop_gives_sharp_frames_from_all_of_it() -> None:
    loop = pydicom.dcmread(real_path("ultrasound-multiframe.dcm")).pixel_array
    chosen = choose_key_frames(30, 3, lambda index: loop[index])
    assert [index // 10 for index in chosen] == [0, 1, 2]
    for index in chosen:
        loop[index] = cv2.GaussianBlur(loop[index], (7, 7), 0)
    assert not set(choose_key_frames(30, 3, lambda index: loop[index])) & set(chosen)


def test_blur_lowers_sharpness_for_grey_and_colour_alike() -> None:
    sharp = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    blurred = ((sharp.astype(int) + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1)) // 3).astype(np.uint8)
    assert sharpness(blurred) < sharpness(sharp)
    assert sharpness(np.stack([sharp] * 3, axis=-1)) == pytest.approx(sharpness(sharp), rel=1e-2)


def test_the_same_picture_is_about_as_sharp_at_twice_the_size() -> None:
    large = cv2.resize(BOARD.astype(np.uint8), (512, 512), interpolation=cv2.INTER_NEAREST)
    larger = cv2.resize(large, (1024, 1024), interpolation=cv2.INTER_NEAREST)
    assert sharpness(np.asarray(large)) == pytest.approx(sharpness(np.asarray(larger)), rel=0.01)


@pytest.mark.parametrize("shape", [(2, 9), (1, 1), (1, 5000), (2, 3, 3)])
def test_a_frame_without_an_inner_pixel_has_no_sharpness(shape: tuple[int, ...]) -> None:
    assert sharpness(np.zeros(shape, dtype=np.uint8)) == 0.0


CASE = [("a1", "A", 50), ("a2", "A", 1), ("a3", "A", 1), ("b1", "B", 1), ("c1", "C", 30)]


@pytest.mark.parametrize(
    ("max_images", "key_frames", "expected"),
    [
        (1, 2, {"a1": 1}),
        (3, 2, {"a1": 1, "b1": 1, "c1": 1}),
        (4, 2, {"a1": 1, "b1": 1, "c1": 1, "a2": 1}),
        (6, 2, {"a1": 2, "b1": 1, "c1": 1, "a2": 1, "a3": 1}),
        (7, 2, {"a1": 2, "b1": 1, "c1": 2, "a2": 1, "a3": 1}),
        (99, 3, {"a1": 3, "b1": 1, "c1": 3, "a2": 1, "a3": 1}),
    ],
)
def test_series_come_before_instances_and_instances_before_more_of_a_loop(
    max_images: int, key_frames: int, expected: dict[str, int]
) -> None:
    for order in itertools.islice(itertools.permutations(CASE), 0, 120, 17):
        shares = share_budget(order, max_images=max_images, key_frames=key_frames)
        assert shares == {**dict.fromkeys(("a1", "a2", "a3", "b1", "c1"), 0), **expected}


def test_no_budget_is_overdrawn_and_none_is_left_while_a_frame_is_to_be_had() -> None:
    draw = random.Random(0)
    for _ in range(200):
        case = [
            (f"i{i}", f"s{draw.randrange(4)}", draw.randrange(0, 6)) for i in range(draw.randrange(1, 12))
        ]
        shares = share_budget(case, max_images=8, key_frames=3)
        to_be_had = sum(min(max(num_frames, 1), 3) for _, _, num_frames in case)
        assert sum(shares.values()) == min(8, to_be_had)


def test_a_case_without_instances_has_nothing_to_share() -> None:
    assert share_budget([], max_images=4, key_frames=2) == {}
