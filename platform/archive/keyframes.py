"""Choosing key frames of a loop, and sharing a case's images among its instances.

The loop is cut into as many equal stretches as frames are wanted, so that the chosen ones spread over it; in
each stretch a few candidates compete with their sharpness and with how much they differ from the frames that
are already chosen. Blank candidates and repetitions of a chosen frame (a frozen loop) are never taken;
blurred frames and fades lose by their sharpness.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, zip_longest

import cv2
import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.perceptual import as_grey

CANDIDATES_PER_KEY_FRAME = 4
BLANK_CONTRAST = 2.0
"""Standard deviation of the thumbnail, grey levels, below which a frame shows nothing."""
SAME_DIFFERENCE = 0.25
"""Mean difference of two thumbnails, grey levels, below which they are of one frame, encoded twice."""
_SHARPNESS_SIDE = 256
_THUMBNAIL_SIDE = 64


def sharpness(frame: Frame) -> float:
    """Variance of the Laplacian, a focus measure: larger is sharper.

    Taken at 256 pixels along the longer side at most, where speckle and the noise of compression are
    averaged out.

    Args:
        frame: ``(rows, columns)`` or ``(rows, columns, 3)`` RGB, uint8.

    Source: Pech-Pacheco et al., ICPR 2000, doi 10.1109/ICPR.2000.903548.
    """
    small = _shrunk(as_grey(frame), _SHARPNESS_SIDE)
    return float(cv2.Laplacian(small, cv2.CV_32F)[1:-1, 1:-1].var()) if min(small.shape) > 2 else 0.0


def choose_key_frames(num_frames: int, wanted: int, frame: Callable[[int], Frame]) -> list[int]:
    """Indices of at most ``wanted`` frames, ascending, from 0; one at least. Deterministic.

    Decodes `CANDIDATES_PER_KEY_FRAME` frames for each that is wanted, whatever the length of the loop, and
    none where all are taken; holds one frame at a time.
    """
    if num_frames <= wanted:
        return list(range(num_frames))
    stretches = [
        [_Candidate.of(int(index), frame(int(index))) for index in _spread(stretch)]
        for stretch in np.array_split(np.arange(num_frames), wanted)
    ]
    sharpest = max(candidate.sharpness for stretch in stretches for candidate in stretch)
    chosen: list[_Candidate] = []
    for stretch in sorted(stretches, key=lambda stretch: -max(each.sharpness for each in stretch)):
        fresh = [each for each in stretch if each.contrast >= BLANK_CONTRAST and each.differs(chosen)]
        if fresh:
            chosen.append(max(fresh, key=lambda each: each.worth(chosen, sharpest)))
    return sorted(each.index for each in chosen) or [stretches[0][0].index]


def share_budget(
    instances: Iterable[tuple[str, str, int]], *, max_images: int, key_frames: int
) -> dict[str, int]:
    """How many key frames each instance of a case gives; the order of the instances does not matter.

    Every series gives a frame of one instance before any gives one of a second instance, and every instance
    gives one before any loop gives its second.

    Args:
        instances: Instance id, series key, number of frames.
        max_images: Images of the case, at most.
        key_frames: Frames of one loop, at most.

    Returns:
        Instance id to number of frames, 0 included.
    """
    by_series: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for instance_id, series_key, num_frames in sorted(set(instances)):
        by_series[series_key].append((instance_id, max(num_frames, 1)))
    rounds = zip_longest(*(by_series[key] for key in sorted(by_series)))
    in_turn = [instance for each in rounds for instance in each if instance is not None]
    shares = dict.fromkeys((instance_id for instance_id, _ in in_turn), 0)
    turns = ((turn, *instance) for turn in range(key_frames) for instance in in_turn)
    given = (instance_id for turn, instance_id, num_frames in turns if num_frames > turn)
    for instance_id in islice(given, max_images):
        shares[instance_id] += 1
    return shares


@dataclass(frozen=True)
class _Candidate:
    index: int
    sharpness: float
    contrast: float
    thumbnail: NDArray[np.float32]

    @classmethod
    def of(cls, index: int, frame: Frame) -> _Candidate:
        small = cv2.resize(as_grey(frame), (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
        thumbnail = small.astype(np.float32)
        return cls(index, sharpness(frame), float(thumbnail.std()), thumbnail)

    def difference(self, chosen: list[_Candidate]) -> float:
        """Mean absolute difference to the most alike of the chosen, grey levels."""
        return min(float(np.abs(self.thumbnail - each.thumbnail).mean()) for each in chosen)

    def differs(self, chosen: list[_Candidate]) -> bool:
        return not chosen or self.difference(chosen) >= SAME_DIFFERENCE

    def worth(self, chosen: list[_Candidate], sharpest: float) -> float:
        """Sharpness as a share of the sharpest, more where the frame adds much for its own contrast."""
        adds = min(self.difference(chosen) / self.contrast, 1.0) if chosen else 0.0
        return self.sharpness / max(sharpest, 1e-6) * (1 + adds)


def _spread(stretch: NDArray[np.int64]) -> NDArray[np.int64]:
    places = np.linspace(0, len(stretch) - 1, min(len(stretch), CANDIDATES_PER_KEY_FRAME))
    return np.asarray(stretch[places.round().astype(int)])


def _shrunk(grey: Frame, side: int) -> Frame:
    scale = side / max(grey.shape)
    if scale >= 1:
        return grey
    size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
