from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sonoloop.model import nano
from sonoloop.model.chosen import choose_images
from sonoloop.model.frames import as_rgb
from sonoloop.model.patches import PATCH_DIM
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.prompts import report_turns
from sonoloop.platform.errors import CheckpointError, Reason, RejectedError


def _ramp(height: int = 168, width: int = 224) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def test_a_case_becomes_patches_and_a_grid_per_image(processor: EchoVLMProcessor) -> None:
    case = prepare(processor, CaseInput("a", (_ramp(336, 448), _ramp(336, 448)), "liver"))
    assert case.image_grid_thw.tolist() == [[1, 12, 16]] * 2
    values = case.patches.normalised()
    assert (values.shape, values.dtype) == ((2 * 192, PATCH_DIM), torch.float32)
    assert case.organ_hint == "liver"


def test_an_image_within_the_budget_keeps_its_grey_levels(processor: EchoVLMProcessor) -> None:
    case = prepare(processor, CaseInput("a", (_ramp(),)))
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    first_row = (
        case.patches.normalised()[0, :14].numpy() * std + mean
    )  # red, first copy in time, top row of the patch
    np.testing.assert_allclose(first_row * 255, _ramp()[0, :14], atol=1e-3)


def folder_that_states(tmp_path: Path, **stated: object) -> Path:
    """Nano's folder with another budget in its preprocessor_config.json."""
    nano_processor = EchoVLMProcessor.from_folder(nano.folder())
    nano_processor.save(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    config = json.loads(file.read_text())
    del config["size"]
    file.write_text(json.dumps(config | stated))
    return tmp_path


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"min_pixels": 3136, "max_pixels": 12_845_056},
        {"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}},
        {"size": {"shortest_edge": 3136, "longest_edge": 1_003_520}},
    ],
    ids=["nothing", "qwen2-vl", "qwen2-vl-saved-again", "the-class-default"],
)
def test_a_folder_without_a_budget_of_its_own_gets_the_training_resolution(
    tmp_path: Path, stated: dict[str, object]
) -> None:
    processor = EchoVLMProcessor.from_folder(folder_that_states(tmp_path, **stated))
    assert dict(processor.image_processor.size) == {"shortest_edge": 56 * 56, "longest_edge": 392 * 392}
    square = prepare(processor, CaseInput("a", (_ramp(800, 800),)))
    assert processor.num_image_tokens(square.image_grid_thw[0]) == 196
    scanner = prepare(processor, CaseInput("a", (_ramp(768, 1024),)))
    assert 150 <= processor.num_image_tokens(scanner.image_grid_thw[0]) <= 196


@pytest.mark.parametrize(
    "stated",
    [
        {"min_pixels": 6_272, "max_pixels": 50_176},
        {"size": {"shortest_edge": 6_272, "longest_edge": 50_176}},
    ],
)
def test_a_folder_that_states_a_budget_keeps_it(tmp_path: Path, stated: dict[str, object]) -> None:
    folder = folder_that_states(tmp_path, **stated)
    size = EchoVLMProcessor.from_folder(folder).image_processor.size
    assert dict(size) == {"shortest_edge": 6_272, "longest_edge": 50_176}
    size = EchoVLMProcessor.from_folder(folder, max_pixels=4_000).image_processor.size
    assert size == {"shortest_edge": 4_000, "longest_edge": 4_000}


def test_nano_keeps_the_budget_that_it_was_trained_at(processor: EchoVLMProcessor) -> None:
    assert dict(processor.image_processor.size) == {"shortest_edge": 3_136, "longest_edge": 37_632}


def test_fewest_pixels_enlarge_a_small_image() -> None:
    image = _ramp(64, 64)
    plain = EchoVLMProcessor.from_folder(nano.folder())
    larger = EchoVLMProcessor.from_folder(nano.folder(), min_pixels=168 * 168)
    assert prepare(plain, CaseInput("a", (image,))).image_grid_thw.tolist() == [[1, 4, 4]]
    assert prepare(larger, CaseInput("a", (image,))).image_grid_thw.tolist() == [[1, 12, 12]]


@pytest.mark.parametrize("shape", [(16, 16), (16, 320), (320, 16), (3_000, 150), (5_000, 5_000), (768, 1024)])
@pytest.mark.parametrize("max_pixels", [16_000, 37_632, 392 * 392, 10**6])
def test_no_image_exceeds_the_budget(shape: tuple[int, int], max_pixels: int) -> None:
    processor = EchoVLMProcessor.from_folder(nano.folder(), max_pixels=max_pixels)
    case = prepare(processor, CaseInput("a", (np.zeros(shape, np.uint8),)))
    assert 0 < case.image_grid_thw.prod() * 14 * 14 <= max_pixels


def test_a_broken_preprocessor_configuration_is_refused(tmp_path: Path) -> None:
    (folder_that_states(tmp_path) / "preprocessor_config.json").write_text('{"size":')
    with pytest.raises(CheckpointError, match="cannot be read"):
        EchoVLMProcessor.from_folder(tmp_path)


def test_images_are_prepared_alike_alone_and_together(processor: EchoVLMProcessor) -> None:
    images = (_ramp(168, 224), _ramp(300, 200), _ramp(64, 640))
    together = prepare(processor, CaseInput("a", images)).patches.values
    alone = [prepare(processor, CaseInput("a", (image,))).patches.values for image in images]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_a_case_of_sixty_images_is_prepared_with_sixteen(processor: EchoVLMProcessor) -> None:
    images = tuple(np.full((64, 64), level, np.uint8) for level in range(0, 240, 4))
    case = prepare(processor, CaseInput("a", images))
    assert len(case.image_grid_thw) == 16
    assert case.image_indices == choose_images(60)
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    shown = case.patches.normalised().numpy().reshape(16, -1, 3, 392)[:, 0, 0, 0] * std + mean
    np.testing.assert_allclose(shown * 255, [4 * index for index in case.image_indices], atol=1e-3)
    assert len(prepare(processor, CaseInput("a", images), max_images=None).image_grid_thw) == 60
    assert prepare(processor, CaseInput("a", images), max_images=3).image_indices == (0, 30, 59)


def test_images_that_were_chosen_before_keep_their_place_in_the_case(processor: EchoVLMProcessor) -> None:
    case = CaseInput("a", (_ramp(),) * 3, image_indices=(0, 30, 59))
    assert prepare(processor, case).image_indices == (0, 30, 59)
    assert prepare(processor, case, max_images=2).image_indices == (0, 59)


def test_a_case_knows_its_images_where_nobody_chose(processor: EchoVLMProcessor) -> None:
    case = prepare(processor, CaseInput("a", (_ramp(), _ramp())))
    assert case.image_indices == (0, 1)
    again = PreparedCase("a", None, case.patches, case.image_grid_thw)
    assert pickle.loads(pickle.dumps(again)).image_indices == (0, 1)


def test_the_pixel_budget_is_configurable(processor: EchoVLMProcessor) -> None:
    small = EchoVLMProcessor.from_folder(nano.folder(), max_pixels=112 * 84)
    image = _ramp(336, 448)
    assert len(prepare(small, CaseInput("a", (image,))).patches) < 192
    assert len(prepare(processor, CaseInput("a", (image,))).patches) == 192


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
    assert torch.equal(back.patches.normalised(), case.patches.normalised())
    assert (back.case_id, back.organ_hint) == ("a", "kidney")
    assert len(data) < 192 * 588 + 5000  # a byte per grey level, and the table that says what each is


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
