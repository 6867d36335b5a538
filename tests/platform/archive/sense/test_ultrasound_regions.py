"""Declared regions: all that the header says of them, and nothing that it does not."""

from __future__ import annotations

import itertools

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from tests.platform.archive.sense.headers_of import header, real_header, region

from sonoloop.platform.archive.sense.regions import (
    MAX_REGIONS,
    Region,
    are_side_by_side,
    covers_picture,
    read_regions,
)

ROWS, COLUMNS = 480, 640


def read(*items: Dataset) -> tuple[Region, ...]:
    return read_regions(header(SequenceOfUltrasoundRegions=list(items)), ROWS, COLUMNS)


def bounds(*items: Dataset) -> list[tuple[int, int, int, int]]:
    return [(r.left, r.top, r.right, r.bottom) for r in read(*items)]


def test_everything_that_a_region_says_is_read() -> None:
    (found,) = read(
        region(
            10,
            20,
            300,
            400,
            RegionFlags=3,
            ReferencePixelX0=150,
            ReferencePixelY0=-4,
            TransducerFrequency=3500,
        )
    )
    assert found == Region(
        10,
        20,
        300,
        400,
        kind="2d",
        data="tissue",
        flags=3,
        unit_x="cm",
        unit_y="cm",
        delta_x=0.02,
        delta_y=0.03,
        reference=(150, -4),
        transducer_khz=3500,
    )
    assert found.is_low_priority
    assert found.mm_per_pixel == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize(
    ("spatial", "data", "expected"),
    [
        (1, 1, ("2d", "tissue")),
        (1, 2, ("2d", "colour flow")),
        (2, 1, ("m-mode", "tissue")),
        (3, 3, ("spectral", "pw spectral")),
        (3, 4, ("spectral", "cw spectral")),
        (4, 10, ("waveform", "ecg")),
        (5, 0, ("graphics", "none")),
        (0, 14, ("none", "colour bar")),
        (1, 18, ("2d", "other physiological")),
        (77, 99, ("none", "none")),
    ],
)
def test_kinds_and_data_are_named_as_the_standard_numbers_them(
    spatial: int, data: int, expected: tuple[str, str]
) -> None:
    (found,) = read(region(0, 0, 9, 9, RegionSpatialFormat=spatial, RegionDataType=data))
    assert (found.kind, found.data) == expected


def test_reversed_bounds_are_put_in_order_and_bounds_outside_are_cut() -> None:
    assert bounds(region(300, 400, 10, 20)) == [(10, 20, 300, 400)]
    assert bounds(region(600, 440, 5000, 5000)) == [(600, 440, 639, 479)]


def test_regions_without_an_area_in_the_picture_and_repeated_ones_are_left_out() -> None:
    outside, line, point = region(700, 10, 800, 90), region(5, 5, 5, 90), region(7, 7, 7, 7)
    assert bounds(outside, line, point, region(1, 2, 3, 4), region(1, 2, 3, 4)) == [(1, 2, 3, 4)]
    assert read() == ()


def test_overlapping_regions_are_both_there() -> None:
    assert len(read(region(0, 0, 300, 300), region(100, 100, 200, 200, RegionDataType=2))) == 2


def test_a_malformed_item_does_not_lose_the_others() -> None:
    missing, twice, garbage = region(1, 1, 9, 9), region(1, 1, 9, 9), region(1, 1, 9, 9)
    del missing.RegionLocationMaxX1
    twice.RegionLocationMinX0 = [1, 2]
    tag = Tag("RegionLocationMinY0")
    garbage._dict[tag] = RawDataElement(tag, "UL", 3, b"abc", 0, False, True)
    assert bounds(missing, region(1, 2, 3, 4), twice, garbage, Dataset(), region(5, 6, 7, 8)) == [
        (1, 2, 3, 4),
        (5, 6, 7, 8),
    ]


def test_a_malformed_scale_does_not_lose_its_region() -> None:
    item = region(1, 2, 30, 40)
    tag = Tag("PhysicalDeltaX")
    item._dict[tag] = RawDataElement(tag, "FD", 3, b"abc", 0, False, True)
    (found,) = read(item)
    assert (found.delta_x, found.mm_per_pixel) == (None, None)


def test_a_header_with_absurdly_many_regions_is_believed_in_none() -> None:
    items = [region(0, 0, 9, 9 + number) for number in range(MAX_REGIONS + 1)]
    assert len(read(*items[:-1])) == MAX_REGIONS
    assert read(*items) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"PhysicalUnitsXDirection": 4},
        {"PhysicalUnitsYDirection": 0},
        {"PhysicalDeltaX": 0.0},
        {"PhysicalDeltaY": float("nan")},
        {"PhysicalDeltaX": 100.0},
        {"RegionSpatialFormat": 2},
        {"RegionLocationMaxX1": 700},
    ],
)
def test_a_scale_is_given_only_for_a_whole_2d_region_in_plausible_centimetres(
    changes: dict[str, float],
) -> None:
    (found,) = read(region(10, 20, 300, 400, **changes))
    assert found.mm_per_pixel is None


def test_the_scale_has_no_sign_and_one_pixel_too_much_is_forgiven() -> None:
    (found,) = read(region(10, 20, COLUMNS, ROWS, PhysicalDeltaX=-0.02))
    assert found.mm_per_pixel == pytest.approx((0.2, 0.3))
    assert not found.is_cut


@pytest.mark.parametrize(
    ("regions", "covers"),
    [
        ([(0, 0, 639, 479)], True),
        ([(4, 3, 635, 476)], True),
        ([(0, 20, 639, 479)], False),
        ([(0, 0, 319, 479), (320, 0, 639, 479)], True),
        ([(0, 0, 319, 479), (0, 0, 319, 479)], False),
        ([(0, 0, 639, 240), (0, 200, 639, 479), (10, 10, 20, 20)], True),
        ([], False),
    ],
)
def test_regions_cover_the_picture_by_what_they_have_together(
    regions: list[tuple[int, int, int, int]], covers: bool
) -> None:
    for order in itertools.permutations(regions):
        assert covers_picture([Region(*each) for each in order], ROWS, COLUMNS) is covers
    assert not covers_picture([Region(0, 0, 1, 1)], 0, 0)


def test_two_pictures_beside_each_other_are_told_from_one_above_or_within_the_other() -> None:
    left, right = Region(0, 0, 99, 99), Region(100, 10, 199, 109)
    assert are_side_by_side(left, right)
    assert are_side_by_side(right, left)
    assert not are_side_by_side(left, Region(0, 100, 99, 199))
    assert not are_side_by_side(left, Region(20, 20, 50, 50))
    assert not are_side_by_side(left, Region(100, 60, 199, 159))


def test_the_regions_of_a_real_dual_view_are_two_pictures_and_a_grey_bar() -> None:
    dataset = real_header("gdcm-US-ALOKA-16.dcm")
    left, right, bar = read_regions(dataset, dataset.Rows, dataset.Columns)
    assert are_side_by_side(left, right)
    assert left.mm_per_pixel == right.mm_per_pixel == pytest.approx((0.3827, 0.3827), rel=1e-3)
    assert (bar.data, bar.mm_per_pixel) == ("grey bar", None)
    assert not covers_picture((left, right, bar), dataset.Rows, dataset.Columns)


def test_a_real_picture_made_smaller_after_its_regions_were_written_has_no_scale() -> None:
    dataset = real_header("examples_ybr_color.dcm")
    (found,) = read_regions(dataset, dataset.Rows, dataset.Columns)
    assert found.is_cut
    assert found.mm_per_pixel is None
