"""Black rectangles, and why they are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.sense.regions import Region

Why = Literal["outside-regions", "text", "unreadable-text", "identifier", "released"]
"""``released``: a person added it when releasing the instance from quarantine."""


class Box(NamedTuple):
    """A rectangle of pixels, both ends inside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left + 1

    def grown(self, pixels: int) -> Box:
        """Larger by so much on every side."""
        return Box(self.left - pixels, self.top - pixels, self.right + pixels, self.bottom + pixels)

    def cut_to(self, rows: int, columns: int) -> Box:
        """What of it lies in a picture."""
        return Box(
            max(self.left, 0), max(self.top, 0), min(self.right, columns - 1), min(self.bottom, rows - 1)
        )

    def moved(self, right: int, down: int) -> Box:
        """At another place."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rows and columns, for indexing; it must not begin outside the picture."""
        return slice(self.top, self.bottom + 1), slice(self.left, self.right + 1)


@dataclass(frozen=True)
class Mask:
    """A blackened rectangle, bounds in pixels, both ends inside; ``why`` is a code, never the text.

    ``outside-regions`` bears the bounds of the whole picture and stands for all of it but the regions.
    """

    left: int
    top: int
    right: int
    bottom: int
    why: Why

    @property
    def box(self) -> Box:
        """Its bounds."""
        return Box(self.left, self.top, self.right, self.bottom)


def only_regions(frame: Frame, regions: Sequence[Region]) -> Frame:
    """The frame, black outside the regions; unchanged where there are none. The source is left alone."""
    if not regions:
        return frame
    cleaned = np.zeros_like(frame)
    for region in regions:
        place = Box(region.left, region.top, region.right, region.bottom).place
        cleaned[place] = frame[place]
    return cleaned


def blackened(frame: Frame, masks: Iterable[Mask]) -> Frame:
    """The frame, black under the masks of text; the source is left alone."""
    boxes = [mask.box for mask in masks if mask.why != "outside-regions"]
    if not boxes:
        return frame
    cleaned = frame.copy()
    for box in boxes:
        cleaned[box.place] = 0
    return cleaned


def covered(boxes: Iterable[Box], rows: int, columns: int) -> NDArray[np.bool_]:
    """Which pixels lie under the boxes, ``(rows, columns)``."""
    canvas = np.zeros((rows, columns), dtype=bool)
    for box in boxes:
        canvas[box.cut_to(rows, columns).place] = True
    return canvas
