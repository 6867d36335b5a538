from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from sonoloop.model import nano
from sonoloop.model.frames import as_rgb
from sonoloop.model.processor import PATCH_DIM, CaseInput, EchoVLMProcessor, prepare
from sonoloop.model.prompts import report_turns
from sonoloop.platform.errors import CheckpointError, Reason, RejectedError


def _ramp(height: int = 168, width: int = 224) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def test_a_case_becomes_patches_and_a_grid_per_image(processor: EchoVLMProcessor) -> None:
    case = prepare(processor, CaseInput("a", (_ramp(336, 448), _ramp(336, 448)), "liver"))
    assert case.image_grid_thw.tolist() == [[1, 12, 16]] * 2
    assert case.pixel_values.shape == (2 * 192, PATCH_DIM)
    assert case.pixel_values.dtype == np.float32
    assert case.organ_hint == "liver"


def test_an_image_within_the_budget_keeps_its_grey_levels(processor: EchoVLMProcessor) -> None:
    case = prepare(processor, CaseInput("a", (_ramp(),)))
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    first_row = case.pixel_values[0, :14] * std + mean  # red, first copy in time, top row of the patch
    np.testing.assert_allclose(first_row * 255, _ramp()[0, :14], atol=1e-3)


def test_the_pixel_budget_is_configurable(processor: EchoVLMProcessor) -> None:
    small = EchoVLMProcessor.from_folder(nano.folder(), max_pixels=112 * 84)
    image = _ramp(336, 448)
    assert len(prepare(small, CaseInput("a", (image,))).pixel_values) < 192
    assert len(prepare(processor, CaseInput("a", (image,))).pixel_values) == 192


@pytest.mark.parametrize(
    "image",
    [
        _ramp(),
        _ramp()[:, :, None],
        np.repeat(_ramp()[:, :, None], 3, axis=2),
        np.dstack([_ramp()] * 3 + [np.full_like(_ramp(), 7)]),
        np.dstack([_ramp(), np.full_like(_ramp(), 7)]),
        _ramp().astype(np.uint16) * 16,
    ],
    ids=["grey", "grey-3d", "rgb", "rgba", "grey-alpha", "12-in-16-bit"],
)
def test_every_stored_form_of_a_frame_gives_the_same_pixels(image: np.ndarray) -> None:
    np.testing.assert_array_equal(as_rgb(image), np.repeat(_ramp()[:, :, None], 3, axis=2))


def test_a_black_16_bit_frame_stays_black() -> None:
    assert as_rgb(np.zeros((64, 64), np.uint16)).max() == 0


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ((), Reason.NO_PIXELS),
        ((np.zeros((8, 224), np.uint8),), Reason.NOT_AN_IMAGE),
        ((np.zeros((20, 2000), np.uint8),), Reason.NOT_AN_IMAGE),
        ((np.zeros((64, 64), np.float32),), Reason.NOT_AN_IMAGE),
        ((np.zeros((2, 64, 64, 3), np.uint8),), Reason.NOT_AN_IMAGE),
        ((np.broadcast_to(np.uint8(0), (20_000, 20_000)),), Reason.TOO_LARGE),
    ],
    ids=["no-image", "too-low", "too-thin", "float", "a-loop", "huge"],
)
def test_what_is_no_image_is_rejected_with_its_reason(
    processor: EchoVLMProcessor, images: tuple[np.ndarray, ...], reason: Reason
) -> None:
    with pytest.raises(RejectedError) as caught:
        prepare(processor, CaseInput("a", images))
    assert caught.value.reason is reason
    assert not caught.value.retryable


def test_a_prepared_case_survives_pickling_at_about_the_size_of_its_pixels(
    processor: EchoVLMProcessor,
) -> None:
    case = prepare(processor, CaseInput("a", (_ramp(),), "kidney"))
    data = pickle.dumps(case, protocol=5)
    back = pickle.loads(data)
    np.testing.assert_array_equal(back.pixel_values, case.pixel_values)
    assert (back.case_id, back.organ_hint) == ("a", "kidney")
    assert len(data) < case.pixel_values.nbytes + 2000


def test_token_ids_hold_one_placeholder_per_merged_patch(processor: EchoVLMProcessor) -> None:
    grids = np.array([[1, 12, 16], [1, 8, 8]])
    ids = processor.token_ids(report_turns(2, "breast"), grids)
    assert ids.count(processor.image_token_id) == (192 + 64) // 4


def test_token_ids_agree_with_the_processors_own_call(processor: EchoVLMProcessor) -> None:
    turns = report_turns(1, "thyroid")
    text = processor.render(turns, open_answer=True)
    called = processor(text=[text], images=[as_rgb(_ramp())])
    assert called["input_ids"][0] == processor.token_ids(turns, np.array([[1, 12, 16]]))
    assert sum(called["mm_token_type_ids"][0]) == 48


def test_a_wrong_number_of_images_is_refused(processor: EchoVLMProcessor) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        processor.token_ids(report_turns(2, None), np.array([[1, 12, 16]]))


def test_saving_and_loading_gives_the_same_processor(processor: EchoVLMProcessor, tmp_path: Path) -> None:
    processor.save(tmp_path)
    again = EchoVLMProcessor.from_folder(tmp_path)
    turns, grids = report_turns(1, "liver"), np.array([[1, 12, 16]])
    assert again.token_ids(turns, grids) == processor.token_ids(turns, grids)
    assert again.image_processor.size == processor.image_processor.size


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        EchoVLMProcessor.from_folder(tmp_path)
