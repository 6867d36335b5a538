"""Cases on their way to a model: images in, patches out. Plain numpy, cheap to pickle, quick to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sonoloop.model.chosen import MAX_IMAGES, choose_images
from sonoloop.model.frames import Pixels
from sonoloop.model.patches import Grids, Patches
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.lexicon import Organ


@dataclass(frozen=True, eq=False, slots=True)
class CaseInput:
    """Images of one case, in reading order.

    Attributes:
        case_id: The case.
        images: uint8 or uint16, ``(H, W)`` or ``(H, W, C)``.
        organ_hint: The organ where it is known beforehand.
        image_indices: Which of the case's images these are, from 0; all of them, in order, where empty.
    """

    case_id: str
    images: tuple[Pixels, ...]
    organ_hint: Organ | None = None
    image_indices: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class PreparedCase:
    """A case as the model reads it.

    Attributes:
        case_id: The case.
        organ_hint: The organ where it is known beforehand.
        patches: Of all images, P = sum of t * h * w.
        image_grid_thw: ``(N, 3)`` int64, patches of each image in time, height and width.
        image_indices: Which of the case's images these are, from 0; all of them, in order, where not given.
            `sonoloop.model.chosen` maps boxes.
    """

    case_id: str
    organ_hint: Organ | None
    patches: Patches
    image_grid_thw: Grids
    image_indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.image_indices:
            object.__setattr__(self, "image_indices", tuple(range(len(self.image_grid_thw))))


class Cutter(Protocol):
    """What cuts an image: a `PatchCutter`, or the processor that holds one."""

    def cut(self, image: Pixels) -> tuple[Patches, Grids]:
        """As `PatchCutter.cut`."""
        ...


def prepare(cutter: Cutter, case: CaseInput, *, max_images: int | None = MAX_IMAGES) -> PreparedCase:
    """Resize a case's images and cut them into patches. Runs on CPU, 1-50 ms per image.

    Args:
        cutter: Of the model that will read the case.
        case: Its images.
        max_images: Of more images, so many are chosen: evenly spaced, the first and the last among them.
            ``None`` takes all.

    Raises:
        RejectedError: the case has no image, or one is not an image or of an absurd size.
    """
    if not case.images:
        raise RejectedError(Reason.NO_PIXELS, "expected at least one image, got none")
    chosen = choose_images(len(case.images), max_images)
    parts = [cutter.cut(case.images[index]) for index in chosen]
    known = case.image_indices or tuple(range(len(case.images)))
    return PreparedCase(
        case_id=case.case_id,
        organ_hint=case.organ_hint,
        patches=Patches.joined([patches for patches, _ in parts]),
        image_grid_thw=np.concatenate([grid for _, grid in parts]),
        image_indices=tuple(known[index] for index in chosen),
    )
