"""Which of a case's images the model sees, and what its boxes are called in the case.

A model counts the images that it was shown; a case counts all of its own. ``image_indices`` lists, in the
order shown, the case's index of each.
"""

from __future__ import annotations

from collections.abc import Sequence

from sonoloop.platform.lexicon import LesionBox

MAX_IMAGES = 16
"""Images of one case that the model sees: 3,136 visual tokens at the default pixel budget."""


def choose_images(num_images: int, max_images: int | None = MAX_IMAGES) -> tuple[int, ...]:
    """Evenly spaced indices in reading order, the first and the last among them; all where they are few.

    Args:
        num_images: Images of the case.
        max_images: At most so many; 1 is the first, ``None`` is all.

    Raises:
        ValueError: ``max_images`` is less than 1.
    """
    if max_images is not None and max_images < 1:
        raise ValueError(f"expected max_images from 1, got {max_images}")
    if max_images is None or num_images <= max_images:
        return tuple(range(num_images))
    gaps = max(max_images - 1, 1)
    # rounded in whole numbers: steps of more than one image, so no index comes twice
    return tuple((step * (num_images - 1) + gaps // 2) // gaps for step in range(max_images))


def boxes_in_case(boxes: Sequence[LesionBox], image_indices: Sequence[int]) -> tuple[LesionBox, ...]:
    """Boxes as the model counts images, as boxes of the case.

    Raises:
        ValueError: a box names an image that the model was not shown.
    """
    if any(box.image_index >= len(image_indices) for box in boxes):
        raise ValueError(f"a box names an image beyond the {len(image_indices)} that were shown")
    return tuple(box.model_copy(update={"image_index": image_indices[box.image_index]}) for box in boxes)


def boxes_among_chosen(boxes: Sequence[LesionBox], image_indices: Sequence[int]) -> tuple[LesionBox, ...]:
    """Boxes of the case, as the model counts images; those on images that it does not see are left out."""
    shown = {image_index: position for position, image_index in enumerate(image_indices)}
    return tuple(
        box.model_copy(update={"image_index": shown[box.image_index]})
        for box in boxes
        if box.image_index in shown
    )
