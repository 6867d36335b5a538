"""What is cut here is, to the last bit, what Qwen2-VL's own image processor makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sonoloop.model import nano
from sonoloop.model.frames import Pixels, as_rgb
from sonoloop.model.patches import DEFAULT_MAX_PIXELS, GREY_DIM, PatchCutter, Patches
from sonoloop.platform.errors import CheckpointError

STATED: dict[str, Any] = json.loads((nano.folder() / "preprocessor_config.json").read_bytes())
SIZES = [(16, 16), (16, 320), (27, 41), (56, 56), (64, 1000), (168, 224), (333, 77), (768, 1024), (1200, 901)]


def folder_of(tmp_path: Path, config: dict[str, Any]) -> Path:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    return tmp_path


def noise(height: int, width: int, *channels: int) -> Pixels:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def assert_same(cutter: PatchCutter, published: Qwen2VLImageProcessorPil, image: Pixels) -> None:
    patches, grid = cutter.cut(image)
    made = published(images=[as_rgb(image)], return_tensors="np", input_data_format="channels_last")
    assert patches.values.dtype == np.uint8
    np.testing.assert_array_equal(grid, made["image_grid_thw"])
    np.testing.assert_array_equal(patches.normalised().numpy(), made["pixel_values"])


@pytest.mark.parametrize("budget", [(56 * 56, 37_632), (3_136, 12_000), (100_000, 392 * 392), (4_000, 4_000)])
def test_any_size_under_any_budget_gives_the_published_patches(
    tmp_path: Path, budget: tuple[int, int]
) -> None:
    size = {"shortest_edge": budget[0], "longest_edge": budget[1]}
    folder = folder_of(tmp_path, STATED | {"size": size})
    published = Qwen2VLImageProcessorPil.from_pretrained(folder)
    for height, width in SIZES:
        assert_same(PatchCutter.from_folder(folder), published, noise(height, width, 3))
        assert_same(PatchCutter.from_folder(folder), published, noise(height, width))


@pytest.mark.parametrize("shape", [(90, 130), (90, 130, 1), (90, 130, 2), (90, 130, 3), (90, 130, 4)])
def test_any_mode_gives_the_published_patches(shape: tuple[int, ...]) -> None:
    published = Qwen2VLImageProcessorPil.from_pretrained(nano.folder())
    cutter = PatchCutter.from_folder(nano.folder())
    assert_same(cutter, published, noise(*shape))
    assert_same(cutter, published, noise(*shape).astype(np.uint16) * 16)


@pytest.mark.parametrize(
    "stated",
    [
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.5], "rescale_factor": 1 / 128},
        {"resample": 2},
        {"resample": 1, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
        {"size": None, "min_pixels": 4_000, "max_pixels": 30_000},
        {"min_pixels": 4_000, "max_pixels": 30_000},
        {"image_mean": None, "image_std": None, "resample": None, "rescale_factor": None},
    ],
    ids=["numbers", "bilinear", "lanczos", "pixels", "pixels-over-size", "nothing"],
)
def test_what_a_folder_states_is_honoured(tmp_path: Path, stated: dict[str, Any]) -> None:
    config = {name: value for name, value in (STATED | stated).items() if value is not None}
    folder = folder_of(tmp_path, config)
    published = Qwen2VLImageProcessorPil.from_pretrained(folder)
    assert_same(PatchCutter.from_folder(folder), published, noise(300, 412, 3))


@pytest.mark.parametrize(
    "stated",
    [
        {"do_resize": False},
        {"do_normalize": False},
        {"patch_size": 16},
        {"temporal_patch_size": 1},
        {"resample": 9},
        {"image_mean": [0.5]},
        {"image_mean": ["a", "b", "c"]},
        {"image_std": [0.1, 0.0, 0.1]},
        {"rescale_factor": 1e300},
    ],
    ids=lambda stated: next(iter(stated)),
)
def test_what_a_folder_asks_for_and_is_not_done_is_refused(tmp_path: Path, stated: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=rf"preprocessor_config.json.*{next(iter(stated))}"):
        PatchCutter.from_folder(folder_of(tmp_path, STATED | stated))


def test_a_folder_without_the_file_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected preprocessor_config\.json"):
        PatchCutter.from_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        PatchCutter.from_folder(tmp_path)


def test_a_stock_budget_states_nothing() -> None:
    assert PatchCutter.from_config({}).max_pixels == DEFAULT_MAX_PIXELS
    assert PatchCutter.from_config({}, max_pixels=1_280 * 28 * 28).max_pixels == 1_280 * 28 * 28


def test_patches_of_several_images_come_apart_as_they_were_joined() -> None:
    cutter = PatchCutter.from_folder(nano.folder())
    parts, grids = zip(*(cutter.cut(noise(height, width)) for height, width in SIZES), strict=True)
    joined = Patches.joined(parts)
    assert joined.are(sum(len(part) for part in parts))
    assert not joined.are(len(joined) + 1)
    for part, again in zip(parts, joined.split(np.concatenate(grids)), strict=True):
        np.testing.assert_array_equal(part.values, again.values)


def test_patches_that_somebody_normalised_are_taken_as_they_are() -> None:
    own = np.random.default_rng(0).normal(size=(4, 1176)).astype(np.float32)
    assert torch.equal(Patches(own).normalised(), torch.from_numpy(own))
    assert not Patches(np.zeros((4, GREY_DIM), np.uint8)).are(4)  # grey levels without their meaning
