"""The pictures: repeatable, with every descriptor measurable where the truth says the lesion is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sonoloop.platform.lexicon import Organ
from sonoloop.platform.phantoms.case import PhantomCase, draw_case
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS
from sonoloop.platform.phantoms.render import RenderedFrame, render
from sonoloop.platform.phantoms.scanners import SCANNER_KINDS, ScannerKind
from sonoloop.platform.phantoms.view import BANNER_HEIGHT, FRAME_HEIGHT, FRAME_WIDTH

Grey = NDArray[np.float64]


def _cases(organ: Organ, scanner: ScannerKind, num: int, **wanted: str) -> list[PhantomCase]:
    """The first cases whose entities have the wanted values."""

    def matching() -> Iterator[PhantomCase]:
        for index in range(3000):
            case = draw_case(8, index, organ, scanner)
            if wanted.items() <= case.entities.flat().items():
                yield case

    found = matching()
    return [next(found) for _ in range(num)]


def _grey(frame: RenderedFrame) -> Grey:
    pixels = frame.pixels.astype(float)
    return pixels if pixels.ndim == 2 else pixels.mean(axis=2)


def _edges(frame: RenderedFrame) -> tuple[int, int, int, int]:
    assert frame.lesion is not None
    x, y, width, height = frame.lesion
    return (
        round(x * FRAME_WIDTH),
        round(y * FRAME_HEIGHT),
        round((x + width) * FRAME_WIDTH),
        round((y + height) * FRAME_HEIGHT),
    )


def _inside_and_around(frame: RenderedFrame, scale: int = 1) -> tuple[float, float]:
    """Mean grey in the middle of the box, and left and right of it."""
    picture = Image.fromarray(_grey(frame).astype(np.uint8)).resize(
        (FRAME_WIDTH // scale, FRAME_HEIGHT // scale), Image.Resampling.BILINEAR
    )
    grey = np.asarray(picture, dtype=float)
    left, top, right, bottom = (edge // scale for edge in _edges(frame))
    width, height = right - left, bottom - top
    rows, gap = slice(top + height // 4, bottom - height // 3), 4 // scale
    inside = grey[rows, left + width // 4 : right - width // 4].mean()
    beside = grey[rows, max(left - width // 3, 0) : left - gap], grey[rows, right + gap : right + width // 3]
    around = np.concatenate(beside, axis=1)
    return float(inside), float(around[around > 0].mean())


def _behind_and_beside(frame: RenderedFrame) -> tuple[float, float]:
    """Mean grey just below the box, and at the same depth beside it."""
    grey, (left, _, right, bottom) = _grey(frame), _edges(frame)
    width, rows = right - left, slice(bottom + 8, bottom + 34)
    behind = grey[rows, left + width // 4 : right - width // 4].mean()
    beside = np.concatenate([grey[rows, left - 40 : left - 8], grey[rows, right + 8 : right + 40]], axis=1)
    return float(behind), float(beside[beside > 0].mean())


@pytest.mark.parametrize("organ", PHANTOM_ORGANS)
def test_a_case_and_its_frames_depend_on_their_numbers_only(organ: Organ) -> None:
    np.random.seed(1)
    first = render(draw_case(3, 5, organ, "A"), 2)
    np.random.seed(2)
    render(draw_case(3, 6, organ, "B"))
    second = render(draw_case(3, 5, organ, "A"), 2)
    assert np.array_equal(first.pixels, second.pixels)
    assert first.lesion == second.lesion
    assert not np.array_equal(first.pixels.mean(), render(draw_case(4, 5, organ, "A"), 2).pixels.mean())


@pytest.mark.parametrize("scanner", SCANNER_KINDS)
@pytest.mark.parametrize("organ", PHANTOM_ORGANS)
def test_frames_have_a_black_banner_and_tissue_only_in_the_region(organ: Organ, scanner: ScannerKind) -> None:
    for index in range(6):
        frame = render(draw_case(9, index, organ, scanner))
        box = frame.region
        assert frame.pixels.shape[:2] == (FRAME_HEIGHT, FRAME_WIDTH)
        assert frame.pixels.dtype == np.uint8
        assert box.top >= BANNER_HEIGHT
        assert box.right < FRAME_WIDTH
        assert box.bottom < FRAME_HEIGHT
        outside = frame.pixels.copy()
        outside[box.top : box.bottom + 1, box.left : box.right + 1] = 0
        assert not outside.any()
        assert frame.pixels[box.top : box.bottom + 1, box.left : box.right + 1].mean() > 25


@pytest.mark.parametrize("scanner", SCANNER_KINDS)
@pytest.mark.parametrize("organ", PHANTOM_ORGANS)
def test_lesions_lie_in_the_region_and_span_enough_of_the_frame(organ: Organ, scanner: ScannerKind) -> None:
    widths = []
    for index in range(60):
        case = draw_case(10, index, organ, scanner)
        for moment in (0, 6, 11):
            frame = render(case, moment) if index < 4 else None
            if frame is not None and frame.lesion is not None:
                left, top, right, bottom = _edges(frame)
                assert frame.region.left <= left < right <= frame.region.right + 1
                assert frame.region.top <= top < bottom <= frame.region.bottom + 1
                assert (bottom - top) / FRAME_HEIGHT > 0.08
                widths.append((right - left) / FRAME_WIDTH)
    assert min(widths) > 0.1
    assert max(widths) < 0.42


@pytest.mark.parametrize("scanner", SCANNER_KINDS)
@pytest.mark.parametrize("organ", PHANTOM_ORGANS)
def test_the_box_fits_a_cyst_on_every_frame(organ: Organ, scanner: ScannerKind) -> None:
    field = "echo_pattern" if organ == "breast" else "echogenicity"
    for case in _cases(organ, scanner, 2, **{field: "anechoic"}):
        for moment in (0, 5, 10):
            frame = render(case, moment)
            left, top, right, bottom = _edges(frame)
            grey = _grey(frame)
            dark = grey < 45  # deep fluid holds a little noise
            middle_row, middle_column = (top + bottom) // 2, (left + right) // 2
            across, down = dark[middle_row], dark[:, middle_column]
            assert across[left + 6 : right - 6].mean() > 0.95
            assert down[top + 6 : bottom - 6].mean() > 0.95
            assert not across[left - 12 : left - 4].all()
            assert not down[bottom + 4 : bottom + 12].all()


@pytest.mark.parametrize("scanner", SCANNER_KINDS)
@pytest.mark.parametrize("organ", PHANTOM_ORGANS)
def test_echogenicity_is_ordered_after_downscaling_by_two(organ: Organ, scanner: ScannerKind) -> None:
    field = "echo_pattern" if organ == "breast" else "echogenicity"
    ladder = ["anechoic", "hypoechoic", "isoechoic", "hyperechoic"]
    solid: dict[str, str] = {}
    if organ == "thyroid":
        ladder = ["anechoic", "very hypoechoic", "hypoechoic", "hyperechoic or isoechoic"]
        solid = {"composition": "solid or almost completely solid"}
    steps = []
    for value in ladder:
        wanted = {field: value} | (solid if value != "anechoic" else {})
        pairs = [_inside_and_around(render(case), 2) for case in _cases(organ, scanner, 6, **wanted)]
        steps.append(float(np.mean([inside - around for inside, around in pairs])))
    assert all(later - earlier > 8 for earlier, later in pairwise(steps)), steps


@pytest.mark.parametrize("scanner", SCANNER_KINDS)
@pytest.mark.parametrize("organ", ["breast", "liver"])
def test_enhancement_and_shadow_can_be_measured_behind_the_lesion(organ: Organ, scanner: ScannerKind) -> None:
    changes = {}
    for value in ("none", "enhancement", "shadowing"):
        pairs = [
            _behind_and_beside(render(case)) for case in _cases(organ, scanner, 6, posterior_features=value)
        ]
        changes[value] = float(np.mean([behind - beside for behind, beside in pairs]))
    assert changes["enhancement"] > changes["none"] + 12, changes
    assert changes["shadowing"] < changes["none"] - 25, changes


def test_a_combined_pattern_is_bright_on_one_side_and_dark_on_the_other() -> None:
    for case in _cases("breast", "A", 4, posterior_features="combined pattern", calcifications="absent"):
        frame = render(case)
        left, _, right, bottom = _edges(frame)
        grey, middle, inset = _grey(frame), (left + right) // 2, (right - left) // 6
        rows = slice(bottom + 8, bottom + 34)
        halves = grey[rows, left + inset : middle - 4].mean(), grey[rows, middle + 4 : right - inset].mean()
        assert abs(halves[0] - halves[1]) > 20


def test_a_coarse_liver_and_a_fatty_liver_differ_from_a_normal_one() -> None:
    def grain(case: PhantomCase) -> float:
        grey = _grey(render(case))[80:180, 150:300]
        blocks = grey[:96, :144].reshape(12, 8, 18, 8).mean(axis=(1, 3))
        return float(np.median(np.abs(np.diff(blocks, axis=0))))  # the median steps over vessels

    def fall(case: PhantomCase) -> float:
        grey = _grey(render(case))[:, 204:244]
        return float(grey[75:105].mean() - grey[230:260].mean())

    groups = {
        value: _cases("liver", "B", 5, parenchyma=value, lesion="absent")
        for value in ("normal", "increased echogenicity", "coarse")
    }
    grains = {value: float(np.mean([grain(case) for case in cases])) for value, cases in groups.items()}
    falls = {value: float(np.mean([fall(case) for case in cases])) for value, cases in groups.items()}
    assert grains["coarse"] > 1.4 * grains["normal"], grains
    assert falls["increased echogenicity"] > falls["normal"] + 15, falls


def test_a_dilated_collecting_system_is_black_in_the_middle_of_the_kidney() -> None:
    def dark_share(case: PhantomCase) -> float:
        grey = _grey(render(case))[140:200, 170:280]
        return float((grey < 12).mean())

    dilated, normal = (
        [dark_share(case) for case in _cases("kidney", "B", 5, collecting_system=value, lesion="absent")]
        for value in ("dilated", "not dilated")
    )
    assert min(dilated) > 0.12
    assert max(normal) < min(dilated)


def test_the_lesion_moves_through_a_loop_and_comes_back() -> None:
    case = _cases("thyroid", "A", 1, lesion="present")[0]
    frames = [render(case, moment) for moment in range(25)]
    boxes = [frame.lesion for frame in frames]
    assert len(set(boxes)) >= 8
    assert boxes[24] == boxes[0]
    assert np.array_equal(frames[24].pixels, frames[0].pixels)
    assert not np.array_equal(frames[1].pixels, frames[0].pixels)
    travel = max(abs(box[0] - boxes[0][0]) for box in boxes if box and boxes[0]) * FRAME_WIDTH
    assert 5 <= travel <= 30
