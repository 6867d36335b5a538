from __future__ import annotations

from itertools import pairwise

import pytest

from sonoloop.model.chosen import boxes_among_chosen, boxes_in_case, choose_images
from sonoloop.platform.lexicon import LesionBox


def box(image_index: int) -> LesionBox:
    return LesionBox(image_index=image_index, x=0.1, y=0.1, width=0.2, height=0.2)


def test_a_case_with_few_images_keeps_them_all() -> None:
    assert choose_images(0) == ()
    assert choose_images(16) == tuple(range(16))
    assert choose_images(60, None) == tuple(range(60))


def test_sixty_images_become_sixteen_with_the_first_and_the_last() -> None:
    assert choose_images(60) == (0, 4, 8, 12, 16, 20, 24, 28, 31, 35, 39, 43, 47, 51, 55, 59)


@pytest.mark.parametrize("max_images", [2, 3, 5, 16])
def test_the_chosen_are_different_in_order_and_evenly_spaced(max_images: int) -> None:
    for num_images in range(max_images + 1, 200):
        chosen = choose_images(num_images, max_images)
        steps = {after - before for before, after in pairwise(chosen)}
        assert (len(chosen), chosen[0], chosen[-1]) == (max_images, 0, num_images - 1)
        assert min(steps) >= 1
        assert max(steps) - min(steps) <= 1


def test_one_image_is_the_first_and_none_is_refused() -> None:
    assert choose_images(60, 1) == (0,)
    with pytest.raises(ValueError, match="from 1"):
        choose_images(60, 0)


def test_boxes_of_the_model_become_boxes_of_the_case_and_back() -> None:
    chosen = choose_images(60)
    in_case = boxes_in_case((box(0), box(2), box(15)), chosen)
    assert [found.image_index for found in in_case] == [0, 8, 59]
    assert in_case[1] == box(8)
    assert boxes_among_chosen(in_case, chosen) == (box(0), box(2), box(15))


def test_a_box_on_an_image_that_was_not_shown() -> None:
    assert boxes_among_chosen((box(1), box(4)), (0, 4)) == (box(1),)  # the case's 4 is the model's 1
    with pytest.raises(ValueError, match="2 that were shown"):
        boxes_in_case((box(2),), (0, 4))
