"""Phantoms as nano's training and test data: drawn, simulated once, kept at the size the model reads.

Shape letters: H x W pixels of a frame.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sonoloop.model.processor import CaseInput
from sonoloop.model.supervised import Target
from sonoloop.platform.lexicon import LesionBox, Organ

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class PhantomCase:
    """A simulated case: its key frames and what is true of it."""

    input: CaseInput
    target: Target

    def corners(self) -> list[tuple[float, float, float, float]]:
        """Left, top, right, bottom of the lesion per image, 0..1; all zero where there is none."""
        found = {
            box.image_index: (box.x, box.y, box.x + box.width, box.y + box.height)
            for box in self.target.boxes
        }
        return [found.get(index, (0.0, 0.0, 0.0, 0.0)) for index in range(len(self.input.images))]

    def one_image(self, rng: np.random.Generator) -> PhantomCase:
        """The case with one of its images, and that image's boxes."""
        index = int(rng.integers(len(self.input.images)))
        boxes = tuple(
            box.model_copy(update={"image_index": 0}) for box in self.target.boxes if box.image_index == index
        )
        return PhantomCase(
            replace(self.input, images=(self.input.images[index],)), replace(self.target, boxes=boxes)
        )


def augmented(case: PhantomCase, rng: np.random.Generator) -> PhantomCase:
    """Another view of the same case: gain and gamma, half of the time mirrored, sometimes without the organ's name.

    Mirroring is safe: phantom reports name no side.
    """
    gain, gamma = rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.25)
    levels = (255 * np.clip(gain * (np.arange(256) / 255) ** gamma, 0, 1)).round().astype(np.uint8)
    mirrored = bool(rng.random() < 0.5)
    images = tuple(levels[image[:, ::-1] if mirrored else image] for image in case.input.images)
    boxes = tuple(_mirror(box) for box in case.target.boxes) if mirrored else case.target.boxes
    hint = case.input.organ_hint if rng.random() < 0.75 else None
    return PhantomCase(
        CaseInput(case.input.case_id, images, hint), replace(case.target, boxes=boxes)
    )


def _mirror(box: LesionBox) -> LesionBox:
    return box.model_copy(update={"x": max(1.0 - box.x - box.width, 0.0)})
