"""Lesion boxes against reference boxes."""

from __future__ import annotations

from collections.abc import Sequence

from sonoloop.platform.lexicon import LesionBox


def iou(one: LesionBox, other: LesionBox) -> float:
    """Intersection over union of two boxes of the same image, 0..1."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    common = max(width, 0.0) * max(height, 0.0)
    return min(1.0, common / (one.width * one.height + other.width * other.height - common))


def best_iou(box: LesionBox, others: Sequence[LesionBox]) -> float:
    """The best of the other boxes of that image; 0 where it has none."""
    return max((iou(box, o) for o in others if o.image_index == box.image_index), default=0.0)
