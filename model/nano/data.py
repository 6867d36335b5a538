"""Phantoms as nano's training and test data: drawn, simulated once, kept at the size the model reads.

Shape letters: H x W pixels of a frame.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sonoloop.model.prepared import CaseInput
from sonoloop.model.prompts import format_report
from sonoloop.model.supervised import Target
from sonoloop.platform.lexicon import LesionBox, Organ, generated_text
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS
from sonoloop.platform.phantoms.render import CYCLE_FRAMES, render
from sonoloop.platform.phantoms.scanners import ScannerKind

logger = logging.getLogger(__name__)

Frames: TypeAlias = tuple[npt.NDArray[np.uint8], ...]
SEEN_ORGANS: tuple[Organ, ...] = ("breast", "thyroid")
SEEN_SCANNER: ScannerKind = "A"
UNSEEN_ORGANS: tuple[Organ, ...] = ("liver", "kidney")
UNSEEN_SCANNER: ScannerKind = "B"
WIDTH, HEIGHT = 224, 168
"""What nano's pixel budget makes of a phantom's 448 x 336."""
TWO_IMAGES_EVERY = 3


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


def phantom_cases(
    seed: int, num_cases: int, organs: Sequence[Organ], scanner: ScannerKind, *, num_workers: int = 2
) -> list[PhantomCase]:
    """Draw and simulate cases, organs in turn; every third case has two frames of its loop.

    Args:
        seed: Of the drawing; another seed gives cases that share nothing with these.
        num_cases: How many, over all organs.
        organs: In turn.
        scanner: Kind of machine.
        num_workers: Processes; 1 stays in this one.
    """
    start = time.monotonic()
    make = partial(phantom_case, seed, organs=tuple(organs), scanner=scanner)
    if num_workers == 1:
        return [make(index) for index in range(num_cases)]
    with ProcessPoolExecutor(num_workers) as pool:
        cases = list(pool.map(make, range(num_cases), chunksize=32))
    logger.info("simulated %d cases in %.0f s", num_cases, time.monotonic() - start)
    return cases


def phantom_case(seed: int, index: int, *, organs: tuple[Organ, ...], scanner: ScannerKind) -> PhantomCase:
    """One case of the sequence that `phantom_cases` makes."""
    phantom = draw_case(seed, index, organs[index % len(organs)], scanner)
    first = int(np.random.default_rng([seed, index]).integers(CYCLE_FRAMES))
    num_images = 2 if index % TWO_IMAGES_EVERY == 0 else 1
    moments = [first + image_index * CYCLE_FRAMES // 4 for image_index in range(num_images)]
    frames = [render(phantom, moment) for moment in moments]
    boxes = tuple(
        LesionBox(image_index=image_index, x=x, y=y, width=width, height=height)
        for image_index, frame in enumerate(frames)
        for x, y, width, height in ([frame.lesion] if frame.lesion else [])
    )
    target = Target(phantom.findings, phantom.impression, phantom.entities, boxes)
    images = tuple(_reduced(frame.pixels) for frame in frames)
    return PhantomCase(CaseInput(f"{seed}-{index}", images, phantom.organ), target)


def _reduced(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Grey, at the size the processor would make; colour frames are tinted grey, their green has no tint."""
    grey = pixels if pixels.ndim == 2 else pixels[:, :, 1]
    return np.asarray(Image.fromarray(grey).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def corpus(seed: int, num_cases: int) -> list[str]:
    """Reports and entity JSON of the phantom organs, drawn, not simulated: the tokenizer's training text."""
    texts = []
    for index in range(num_cases):
        organ = PHANTOM_ORGANS[index % len(PHANTOM_ORGANS)]
        phantom = draw_case(seed, index, organ, SEEN_SCANNER)
        texts += [format_report(phantom.findings, phantom.impression), generated_text(phantom.entities, ())]
    return texts


def augmented(case: PhantomCase, rng: np.random.Generator) -> PhantomCase:
    """Another view of a case: gain, gamma and tint, often mirrored, sometimes without the organ's name.

    Mirroring is safe: phantom reports name no side.
    """
    gain, gamma = rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.25)
    levels = (255 * np.clip(gain * (np.arange(256) / 255) ** gamma, 0, 1)).round().astype(np.uint8)
    mirrored = bool(rng.random() < 0.5)
    tint = rng.uniform(0.85, 1.0, 3) if rng.random() < 0.4 else None
    images = tuple(
        _tinted(levels[image[:, ::-1] if mirrored else image], tint) for image in case.input.images
    )
    boxes = tuple(_mirror(box) for box in case.target.boxes) if mirrored else case.target.boxes
    hint = case.input.organ_hint if rng.random() < 0.75 else None
    return PhantomCase(CaseInput(case.input.case_id, images, hint), replace(case.target, boxes=boxes))


def _tinted(grey: npt.NDArray[np.uint8], tint: npt.NDArray[np.float64] | None) -> npt.NDArray[np.uint8]:
    return grey if tint is None else (grey[:, :, None] * tint.astype(np.float32)).astype(np.uint8)


def _mirror(box: LesionBox) -> LesionBox:
    return box.model_copy(update={"x": max(1.0 - box.x - box.width, 0.0)})
