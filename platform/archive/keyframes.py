"""Choosing key frames: the loop is cut into equal stretches, and the sharpest frame of each is taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sonoloop.platform.archive.instance import Frame

CANDIDATES_PER_KEY_FRAME = 4


def sharpness(frame: Frame) -> float:
    """Variance of the Laplacian, a focus measure: larger is sharper.

    Args:
        frame: ``(rows, columns)`` or ``(rows, columns, 3)``, uint8.

    Source: Pech-Pacheco et al., ICPR 2000, doi 10.1109/ICPR.2000.903548.
    """
    grey = frame.astype(np.float32) if frame.ndim == 2 else frame.mean(axis=2, dtype=np.float32)
    laplacian = -4 * grey[1:-1, 1:-1] + grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(laplacian.var()) if laplacian.size else 0.0


def choose_key_frames(num_frames: int, wanted: int, frame: Callable[[int], Frame]) -> list[int]:
    """Indices of at most ``wanted`` frames, ascending, from 0. Deterministic.

    Only a few evenly spread candidates per stretch are decoded, whatever the length of the loop.
    """
    if num_frames <= wanted:
        return list(range(num_frames))
    chosen = []
    for stretch in np.array_split(np.arange(num_frames), wanted):
        spread = np.linspace(0, len(stretch) - 1, min(len(stretch), CANDIDATES_PER_KEY_FRAME)).round()
        candidates = [int(stretch[int(place)]) for place in spread]
        chosen.append(max(candidates, key=lambda index: sharpness(frame(index))))
    return chosen
