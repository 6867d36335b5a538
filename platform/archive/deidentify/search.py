"""Looking for text in the frames of one instance.

A picture is looked at through its local contrast: brightness above (or beside) the median of its
surroundings, plus colour. On plain speckle the detector takes whole fields for text and overlooks small
letters; through the contrast it does neither (`benchmarks/deidentifying.py` prints both).

Not seen: handwriting, text far from level and upright, text fainter than the speckle it stands on, letters
above a third of the picture. Faces and photographs are not looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from sonoloop.platform.archive.deidentify.identifiers import Identifiers
from sonoloop.platform.archive.deidentify.judge import Text, judge
from sonoloop.platform.archive.deidentify.masks import Box, Mask, blackened, covered
from sonoloop.platform.archive.deidentify.ocr import HIGHEST_SHARE, Found, text_reader
from sonoloop.platform.archive.instance import Frame

SURROUNDINGS_PX = 15
"""Wider than twice the strokes of scanner fonts; of larger letters the edges remain."""
USUAL_LONG_SIDE = 800
"""Smaller pictures are enlarged to it, up to twice; larger ones are looked at as they are."""


class Look(NamedTuple):
    """One way of looking: relative to the usual size; whether letters darker than their ground count too."""

    size: float
    sees_dark: bool


FIRST, SECOND, THIRD = Look(1.0, sees_dark=False), Look(0.8, sees_dark=True), Look(1.15, sees_dark=False)


@dataclass
class TextSearch:
    """What was found in the frames looked at so far.

    ``masks`` hold for every frame: overlays stand still, and what one frame hides another shows.
    ``bounds`` is the part of the picture that is looked at.
    """

    bounds: Box
    identifiers: Identifiers
    masks: list[Mask] = field(default_factory=list)
    num_found: int = 0
    _kept: list[tuple[Box, Frame]] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """Harmless texts; one that changes counts again."""
        return len(self._kept)

    def look(self, frame: Frame, how: Look) -> list[Mask]:
        """Look at one whole frame, black outside the regions, and mask; gives the masks that it adds."""
        picture = coloured(blackened(frame, self.masks)[self.bounds.place])
        contrast = local_contrast(picture, sees_dark=how.sees_dark)
        found = text_reader().find(contrast, usual_scale(picture) * how.size)
        fresh = self._unexplained(picture, found)
        texts = [
            Text(_box(one), reading)
            for one, reading in zip(fresh, text_reader().read(picture, fresh), strict=True)
        ]
        added = []
        verdicts = judge(texts, self.identifiers, HIGHEST_SHARE * min(picture.shape[:2]))
        for (box, _), verdict in zip(texts, verdicts, strict=True):
            if verdict == "tissue":
                continue
            self.num_found += 1
            if verdict == "harmless":
                self._kept.append((box, picture[box.place].copy()))
            else:
                wide = box.grown(2 + min(box.height, box.width) // 8).cut_to(*picture.shape[:2])
                added.append(Mask(*wide.moved(self.bounds.left, self.bounds.top), why=verdict))
        self.masks += added
        return added

    def masked_boxes(self) -> list[Box]:
        """Where masks of text lie in the part that is looked at."""
        boxes = (mask.box for mask in self.masks if mask.why != "outside-regions")
        return [box.moved(-self.bounds.left, -self.bounds.top) for box in boxes]

    def _unexplained(self, picture: Frame, found: Sequence[Found]) -> list[Found]:
        """Those that are not what is left of a mask, nor a harmless text that looks as when it was read."""
        rows, columns = picture.shape[:2]
        masked = self.masked_boxes()
        same = (box.grown(box.height // 4) for box, cut in self._kept if _is_same(picture[box.place], cut))
        explained = covered((*masked, *same), rows, columns)
        return [one for one in found if explained[_box(one).place].mean() < 0.85]


def local_contrast(picture: Frame, *, sees_dark: bool) -> Frame:
    """What stands out of its surroundings, by brightness or colour, ``(rows, columns, 3)``, all the same."""
    red, green, blue = cv2.split(picture)
    brightest = cv2.max(cv2.max(red, green), blue)
    colour = cv2.subtract(brightest, cv2.min(cv2.min(red, green), blue))
    median = cv2.medianBlur(brightest, SURROUNDINGS_PX)
    differs = cv2.absdiff(brightest, median) if sees_dark else cv2.subtract(brightest, median)
    return np.asarray(cv2.merge([cv2.addWeighted(differs, 1.4 if sees_dark else 1.2, colour, 1.0, 0)] * 3))


def usual_scale(picture: Frame) -> float:
    """How much a picture is enlarged for the first look."""
    return min(max(USUAL_LONG_SIDE / max(picture.shape[:2]), 1.0), 2.0)


def _box(found: Found) -> Box:
    return Box(*found.bounds)


def coloured(picture: Frame) -> Frame:
    """A picture, grey or not, as ``(rows, columns, 3)``."""
    return np.ascontiguousarray(np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture)


def _is_same(now: Frame, before: Frame) -> bool:
    """Whether pixels are the same text still: compression flickers, a changed letter does more."""
    return float(cv2.blur(cv2.absdiff(now, before), (2, 2)).max()) < 40
