"""``SequenceOfUltrasoundRegions``: where in the picture ultrasound data lies, of what kind, and its scale.

Source: DICOM PS3.3 C.8.5.5, US Region Calibration Module. It has no data type for tissue Doppler, power
Doppler or elastography: machines declare those as tissue or as colour flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
import pydicom

from sonoloop.platform.archive.sense.elements import items, number

RegionKind = Literal["none", "2d", "m-mode", "spectral", "waveform", "graphics"]
"""Region Spatial Format (0018,6012), in the order of its values from 0."""
RegionData = Literal[
    "none",
    "tissue",
    "colour flow",
    "pw spectral",
    "cw spectral",
    "doppler mean trace",
    "doppler mode trace",
    "doppler max trace",
    "volume trace",
    "volume change trace",
    "ecg",
    "pulse",
    "phonocardiogram",
    "grey bar",
    "colour bar",
    "integrated backscatter",
    "area trace",
    "area change trace",
    "other physiological",
]
"""Region Data Type (0018,6014), in the order of its values from 0."""
Unit = Literal["none", "%", "dB", "cm", "s", "Hz", "dB/s", "cm/s", "cm2", "cm2/s", "cm3", "cm3/s", "degrees"]
"""Physical Units (0018,6024) and (0018,6026), in the order of their values from 0."""

MAX_REGIONS = 64
"""A header with more is not believed in any of them."""
MAX_OVERHANG_PX = 1
"""Makers that count from 1, or past the end, declare bounds one pixel outside the picture."""
MM_PER_PIXEL = (0.001, 5.0)
"""What a scale must lie between: finer than any transducer resolves, coarser than any picture is."""
COVERING_SHARE = 0.97

_Bounds = tuple[int, int, int, int]
W = TypeVar("W")


@dataclass(frozen=True)
class Region:
    """One rectangle of ultrasound data; bounds in pixels, both ends inside, from 0.

    ``unit_x``, ``unit_y`` and ``delta_x``, ``delta_y`` say how much one pixel is; ``reference`` is the pixel
    ``(x, y)`` where the axes meet, counted from the region's corner and possibly outside of it.
    ``is_cut`` says that the header's bounds reach outside the picture.
    """

    left: int
    top: int
    right: int
    bottom: int
    kind: RegionKind = "none"
    data: RegionData = "none"
    flags: int = 0
    unit_x: Unit = "none"
    unit_y: Unit = "none"
    delta_x: float | None = None
    delta_y: float | None = None
    reference: tuple[int, int] | None = None
    transducer_khz: float | None = None
    is_cut: bool = False

    @property
    def is_low_priority(self) -> bool:
        """Whether the pixels belong to the other region where two overlap; bit 0 of the flags."""
        return bool(self.flags & 1)

    @property
    def mm_per_pixel(self) -> tuple[float, float] | None:
        """Millimetres per pixel ``(x, y)`` of a 2-D region whose axes are both in centimetres.

        ``None`` where the header has no plausible one, and where the bounds reach outside the picture: it
        was made smaller after the region was written, and nobody knows whether by cutting or by scaling.
        """
        if self.kind != "2d" or (self.unit_x, self.unit_y) != ("cm", "cm") or self.is_cut:
            return None
        x, y = (abs(delta or 0.0) * 10 for delta in (self.delta_x, self.delta_y))
        low, high = MM_PER_PIXEL
        return (x, y) if low <= x <= high and low <= y <= high else None


def read_regions(dataset: pydicom.Dataset, rows: int, columns: int) -> tuple[Region, ...]:
    """The regions that a header declares, cut to the picture, each once.

    Left out are those without an area in the picture and those without readable bounds; the others stay.
    """
    found = items(dataset, "SequenceOfUltrasoundRegions")
    if len(found) > MAX_REGIONS:
        return ()
    regions = (_region(item, rows, columns) for item in found)
    return tuple(dict.fromkeys(region for region in regions if region is not None))


def are_side_by_side(one: Region, other: Region) -> bool:
    """Whether two regions lie beside each other: apart in x, and level over half of the lower one."""
    left, right = sorted((one, other), key=lambda region: (region.left, region.right))
    level = min(one.bottom, other.bottom) - max(one.top, other.top) + 1
    lower = min(one.bottom - one.top, other.bottom - other.top) + 1
    return left.right < right.left and level * 2 >= lower


def covers_picture(regions: Sequence[Region], rows: int, columns: int) -> bool:
    """Whether the regions together cover `COVERING_SHARE` of the picture or more.

    Machines draw text at the margins: who declares the whole picture as ultrasound has said nothing about
    where there is none.
    """
    if not regions or rows * columns == 0:
        return False
    x = np.unique([edge for region in regions for edge in (region.left, region.right + 1)])
    y = np.unique([edge for region in regions for edge in (region.top, region.bottom + 1)])
    covered = np.zeros((len(y) - 1, len(x) - 1), dtype=bool)
    for region in regions:
        inside_y = (y[:-1] >= region.top) & (y[:-1] <= region.bottom)
        inside_x = (x[:-1] >= region.left) & (x[:-1] <= region.right)
        covered |= inside_y[:, None] & inside_x
    area = (np.diff(y)[:, None] * np.diff(x))[covered].sum()
    return bool(area >= COVERING_SHARE * rows * columns)


def _region(item: pydicom.Dataset, rows: int, columns: int) -> Region | None:
    bounds = _bounds(item)
    if bounds is None:
        return None
    left, top, right, bottom = bounds
    cut = max(left, 0), max(top, 0), min(right, columns - 1), min(bottom, rows - 1)
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        return None
    return Region(
        *cut,
        kind=_word(item, "RegionSpatialFormat", get_args(RegionKind)),
        data=_word(item, "RegionDataType", get_args(RegionData)),
        flags=_whole(item, "RegionFlags") or 0,
        unit_x=_word(item, "PhysicalUnitsXDirection", get_args(Unit)),
        unit_y=_word(item, "PhysicalUnitsYDirection", get_args(Unit)),
        delta_x=number(item, "PhysicalDeltaX"),
        delta_y=number(item, "PhysicalDeltaY"),
        reference=_reference(item),
        transducer_khz=number(item, "TransducerFrequency"),
        is_cut=max(abs(a - b) for a, b in zip(bounds, cut, strict=True)) > MAX_OVERHANG_PX,
    )


def _bounds(item: pydicom.Dataset) -> _Bounds | None:
    """Left, top, right, bottom as declared, put in order; ``None`` where one is missing."""
    x = [_whole(item, name) for name in ("RegionLocationMinX0", "RegionLocationMaxX1")]
    y = [_whole(item, name) for name in ("RegionLocationMinY0", "RegionLocationMaxY1")]
    xs, ys = ([edge for edge in edges if edge is not None] for edges in (x, y))
    if len(xs) < 2 or len(ys) < 2:
        return None
    return min(xs), min(ys), max(xs), max(ys)


def _reference(item: pydicom.Dataset) -> tuple[int, int] | None:
    x, y = _whole(item, "ReferencePixelX0"), _whole(item, "ReferencePixelY0")
    return None if x is None or y is None else (x, y)


def _whole(item: pydicom.Dataset, keyword: str) -> int | None:
    value = number(item, keyword)
    return None if value is None else int(value)


def _word(item: pydicom.Dataset, keyword: str, words: tuple[W, ...]) -> W:
    """The word for an enumerated value; the first one, none, where it is missing or unknown."""
    value = _whole(item, keyword) or 0
    return words[value] if 0 <= value < len(words) else words[0]
