"""Where the picture lies in the frame, and how beams become pixels: linear arrays and curved arrays.

Shape letters: S samples along a beam, B beams. Tissue coordinates are millimetres, ``x`` to the right from
the middle of the probe, ``z`` away from its face. A shift ``(samples, beams)`` moves the tissue under the
probe: grid point ``(i, j)`` shows the tissue of ``(i + samples, j + beams)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
"""Pixel-sized arrays are float32 for speed, tables may be float64."""

FRAME_WIDTH = 448
FRAME_HEIGHT = 336
BANNER_HEIGHT = 24
"""Pixels at the top of a frame that hold text and never tissue."""
PICTURE_HEIGHT = 304
PICTURE_WIDTH = 432
SCALE_WIDTH = 8
"""Pixels at the right of the picture, inside the region, for the depth ticks."""
CURVED_SAMPLES = 288
CURVED_BEAMS = 216

Shift = tuple[int, int]


class RegionBox(NamedTuple):
    """The ultrasound region of a frame in pixels, both ends inside, from 0 (as DICOM counts)."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class View:
    """One probe at one depth setting. ``radius_mm`` is 0 for a linear array.

    ``beam_step`` is millimetres between beams of a linear array, radians of a curved one.
    """

    num_samples: int
    num_beams: int
    sample_mm: float
    beam_step: float
    radius_mm: float
    pixel_mm: float
    width: int
    height: int

    @property
    def depth_mm(self) -> float:
        """Depth of the last sample."""
        return self.num_samples * self.sample_mm

    @property
    def region(self) -> RegionBox:
        """The rectangle that holds tissue and depth ticks, below the banner."""
        left = (FRAME_WIDTH - self.width - SCALE_WIDTH) // 2
        top = BANNER_HEIGHT + (FRAME_HEIGHT - BANNER_HEIGHT - self.height) // 2
        return RegionBox(left, top, left + self.width + SCALE_WIDTH - 1, top + self.height - 1)

    @property
    def beam_mm(self) -> float:
        """Distance between beams at half depth, millimetres."""
        return self.beam_step * (self.radius_mm + self.depth_mm / 2 if self.radius_mm else 1.0)

    def axes(self, shift: Shift) -> tuple[Float, Float]:
        """Tissue coordinates along the beam ``(S,)`` and across beams ``(B,)``, mm (arc at half depth)."""
        along_S = (np.arange(self.num_samples, dtype=np.float32) + shift[0]) * self.sample_mm
        across_B = (np.arange(self.num_beams, dtype=np.float32) + shift[1] - self._middle) * self.beam_mm
        return along_S.astype(np.float32), across_B.astype(np.float32)

    def coordinates(self, shift: Shift) -> tuple[Float, Float]:
        """``x`` and ``z`` of every grid point, mm, float32, both ``(S, B)`` or broadcastable to it."""
        along_S, across_B = self.axes(shift)
        if not self.radius_mm:
            return across_B[None, :], along_S[:, None]
        angle_B = across_B / np.float32(self.beam_mm) * np.float32(self.beam_step)
        range_S = along_S + np.float32(self.radius_mm)
        return range_S[:, None] * np.sin(angle_B), range_S[:, None] * np.cos(angle_B) - np.float32(
            self.radius_mm
        )

    def to_grid(self, x: Float, z: Float, shift: Shift) -> tuple[Float, Float]:
        """Grid indices (sample, beam), float, of tissue points in mm; any shape."""
        if not self.radius_mm:
            return z / self.sample_mm - shift[0], x / self.beam_step + self._middle - shift[1]
        reach = np.hypot(x, z + self.radius_mm) - self.radius_mm
        angle = np.arctan2(x, z + self.radius_mm)
        return reach / self.sample_mm - shift[0], angle / self.beam_step + self._middle - shift[1]

    def to_pixels(self, x: Float, z: Float, shift: Shift) -> tuple[Float, Float]:
        """Frame pixels (column, row), float, of tissue points in mm; any shape."""
        sample, beam = self.to_grid(x, z, shift)
        region = self.region
        if not self.radius_mm:
            return region.left + beam, region.top + sample
        angle = (beam - self._middle) * self.beam_step
        reach = self.radius_mm + sample * self.sample_mm
        column = reach * np.sin(angle) / self.pixel_mm + (self.width - 1) / 2
        row = (reach * np.cos(angle) - self._lowest_mm) / self.pixel_mm
        return region.left + column, region.top + row

    def scan_convert(self, grid_SB: Float) -> Float:
        """Beams to picture ``(height, width)``, bilinear; 0 outside the sector."""
        if not self.radius_mm:
            return grid_SB
        index_4N, weight_4N, inside_N = _sector_table(self)
        flat = grid_SB.ravel()
        values = (flat[index_4N] * weight_4N).sum(axis=0)
        picture = np.zeros(self.height * self.width, dtype=np.float32)
        picture[inside_N] = values
        return picture.reshape(self.height, self.width)

    @property
    def _middle(self) -> float:
        return (self.num_beams - 1) / 2

    @property
    def _lowest_mm(self) -> float:
        return self.radius_mm * float(np.cos(self._middle * self.beam_step))


@lru_cache(maxsize=32)
def linear_view(depth_mm: float, aperture_mm: float) -> View:
    """A linear array: one beam per column, one sample per row, square pixels."""
    pixel_mm = depth_mm / PICTURE_HEIGHT
    width = min(PICTURE_WIDTH, 8 * int(aperture_mm / pixel_mm / 8))  # lengths that the FFT likes
    return View(PICTURE_HEIGHT, width, pixel_mm, pixel_mm, 0.0, pixel_mm, width, PICTURE_HEIGHT)


@lru_cache(maxsize=32)
def curved_view(depth_mm: float, radius_mm: float, half_angle_deg: float) -> View:
    """A curved array: beams fan out from behind the probe's face."""
    half = np.deg2rad(half_angle_deg)
    tall = depth_mm + radius_mm * (1 - np.cos(half))
    wide = 2 * (radius_mm + depth_mm) * np.sin(half)
    pixel_mm = float(max(tall / PICTURE_HEIGHT, wide / PICTURE_WIDTH))
    return View(
        num_samples=CURVED_SAMPLES,
        num_beams=CURVED_BEAMS,
        sample_mm=depth_mm / CURVED_SAMPLES,
        beam_step=float(2 * half / (CURVED_BEAMS - 1)),
        radius_mm=radius_mm,
        pixel_mm=pixel_mm,
        width=int(wide / pixel_mm),
        height=int(tall / pixel_mm),
    )


@lru_cache(maxsize=32)
def _sector_table(view: View) -> tuple[NDArray[np.int64], Float, NDArray[np.int64]]:
    """Grid indices ``(4, N)``, weights ``(4, N)`` and flat picture indices ``(N,)`` of the sector."""
    row, column = np.mgrid[0 : view.height, 0 : view.width]
    x = (column - (view.width - 1) / 2) * view.pixel_mm
    z = row * view.pixel_mm + view._lowest_mm
    sample = (np.hypot(x, z) - view.radius_mm) / view.sample_mm
    beam = np.arctan2(x, z) / view.beam_step + view._middle
    inside = (sample >= 0) & (sample < view.num_samples - 1) & (beam >= 0) & (beam < view.num_beams - 1)
    sample, beam = sample[inside], beam[inside]
    top, left = sample.astype(np.int64), beam.astype(np.int64)
    down, right = sample - top, beam - left
    corner = top * view.num_beams + left
    index = np.stack([corner, corner + 1, corner + view.num_beams, corner + view.num_beams + 1])
    weight = np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right])
    return index, weight.astype(np.float32), np.flatnonzero(inside)
