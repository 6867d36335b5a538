"""``SequenceOfUltrasoundRegions``: where in the picture ultrasound data lies, and of what kind.

Source: DICOM PS3.3 C.8.5.5, US Region Calibration Module.
"""

from __future__ import annotations

from dataclasses import dataclass

import pydicom


@dataclass(frozen=True)
class Region:
    """One rectangle of ultrasound data; bounds in pixels, both ends inside, from 0."""

    left: int
    top: int
    right: int
    bottom: int


def read_regions(dataset: pydicom.Dataset, rows: int, columns: int) -> tuple[Region, ...]:
    """The regions that a header declares, cut to the picture; those without an area are left out."""
    found = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        left, right = sorted((int(item.RegionLocationMinX0), int(item.RegionLocationMaxX1)))
        top, bottom = sorted((int(item.RegionLocationMinY0), int(item.RegionLocationMaxY1)))
        region = Region(max(left, 0), max(top, 0), min(right, columns - 1), min(bottom, rows - 1))
        if region.left < region.right and region.top < region.bottom:
            found.append(region)
    return tuple(found)
