"""From one image to the patches that a vision tower reads: resize within a pixel budget, cut, look up.

What Qwen2-VL's image processor computes, to the last bit, with Pillow and numpy alone: CPU stages need
neither torch nor transformers. Grey levels stay uint8 until the tower is fed, and a still frame is doubled in
time only there: 588 bytes per patch on the way instead of 4,704.

Shape letters: P patches of all images, C = 3 channels.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sonoloop.model.frames import Pixels, Rgb, as_rgb
from sonoloop.platform.errors import CheckpointError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Floats: TypeAlias = npt.NDArray[np.float32]
Grids: TypeAlias = npt.NDArray[np.int64]

PATCH_PX, MERGE, FRAMES = 14, 2, 2
"""Side of a patch, patches merged into a token per side, copies of a still frame in time."""
TOKEN_PX = PATCH_PX * MERGE
GREY_DIM = 3 * PATCH_PX**2
PATCH_DIM = FRAMES * GREY_DIM
"""3 channels x 2 (the still frame is doubled in time) x 14 x 14 pixels."""
DEFAULT_MIN_PIXELS = 56 * 56
DEFAULT_MAX_PIXELS = 392 * 392
"""EchoVLM's training resolution: 196 visual tokens for a square image."""
STOCK_MAX_PIXELS = (16_384 * 28 * 28, 1_280 * 28 * 28)
"""Upper limits of Qwen2-VL's own folders and of its image processor; copied along, they state nothing."""

# Qwen2-VL's own, which a folder may leave out; the means and deviations are CLIP's.
_STOCK: Mapping[str, Any] = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
    "rescale_factor": 1 / 255,
    "resample": Image.Resampling.BICUBIC,
}
_FIXED: Mapping[str, object] = {
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "patch_size": PATCH_PX,
    "merge_size": MERGE,
    "temporal_patch_size": FRAMES,
}


@dataclass(frozen=True, eq=False, slots=True)
class Patches:
    """Patches of one or more images, in reading order.

    Attributes:
        values: ``(P, 588)`` uint8 grey levels, channel by channel; or ``(P, 1176)`` float32, normalised and
            doubled in time by somebody else.
        levels: ``(3, 256)`` float32, what each grey level of a channel is to the model; None beside float32.
    """

    values: npt.NDArray[Any]
    levels: Floats | None = None

    def __len__(self) -> int:
        return len(self.values)

    def are(self, num_patches: int) -> bool:
        """Whether these are so many patches, all of them finite."""
        width = PATCH_DIM if self.levels is None else GREY_DIM
        return self.values.shape == (num_patches, width) and bool(np.isfinite(self.values).all())

    def split(self, grids_N3: Grids) -> list[Patches]:
        """The patches of each image."""
        ends = np.cumsum(grids_N3.prod(axis=1))[:-1]
        return [Patches(part, self.levels) for part in np.split(self.values, ends)]

    def normalised(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """What the vision tower reads, ``(P, 1176)`` float32; computed on ``device``."""
        import torch

        values = torch.from_numpy(np.ascontiguousarray(self.values)).to(device)
        if self.levels is None:
            return values.float()
        levels = torch.from_numpy(self.levels).to(device)
        starts_C1 = torch.arange(3, dtype=torch.int32, device=device)[:, None] * levels.shape[1]
        looked_up = levels.flatten()[values.view(len(self), 3, -1).int() + starts_C1]
        return looked_up[:, :, None].expand(-1, -1, FRAMES, -1).reshape(len(self), PATCH_DIM)

    @classmethod
    def joined(cls, parts: Sequence[Patches]) -> Self:
        """The patches of several images, which share their levels."""
        return cls(np.concatenate([part.values for part in parts]), parts[0].levels)


NO_PATCHES = Patches(np.zeros((0, PATCH_DIM), np.float32))
"""Of a conversation without images."""


@dataclass(frozen=True, eq=False, slots=True)
class PatchCutter:
    """Resizes images and cuts them into patches, as a model folder states.

    Attributes:
        min_pixels: Fewest pixels of an image after resizing.
        max_pixels: Its budget.
        levels: See `Patches`.
        resample: Pillow's filter.
    """

    min_pixels: int
    max_pixels: int
    levels: Floats
    resample: Image.Resampling

    @classmethod
    def from_folder(
        cls, folder: Path, *, max_pixels: int | None = None, min_pixels: int | None = None
    ) -> Self:
        """As ``preprocessor_config.json`` of a model folder states.

        Raises:
            CheckpointError: the file is missing, cannot be read, or asks for what is not done here.
        """
        file = folder / "preprocessor_config.json"
        if not file.is_file():
            raise CheckpointError(
                f"expected {file.name} in the model folder; copy it from the published model"
            )
        try:
            config = json.loads(file.read_bytes())
        except ValueError as err:
            raise CheckpointError(
                f"{file.name} of {folder.name} cannot be read; copy it from the published model"
            ) from err
        return cls.from_config(config, max_pixels=max_pixels, min_pixels=min_pixels)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, max_pixels: int | None = None, min_pixels: int | None = None
    ) -> Self:
        """As an image processor's configuration states, with the budget of `pixel_budget`.

        Raises:
            CheckpointError: it asks for what is not done here, or its numbers cannot be used.
        """
        for name, expected in _FIXED.items():
            if (found := config.get(name, expected)) != expected:
                raise CheckpointError(
                    f"preprocessor_config.json: expected {name} = {expected}, found {found!r}"
                )
        fewest, most = pixel_budget(config, min_pixels, max_pixels)
        stated = {name: _STOCK[name] if config.get(name) is None else config[name] for name in _STOCK}
        try:
            resample = Image.Resampling(stated["resample"])
            levels = _levels(stated["image_mean"], stated["image_std"], stated["rescale_factor"])
        except (TypeError, ValueError) as err:
            raise CheckpointError(f"preprocessor_config.json: {', '.join(_STOCK)}: {err}") from err
        return cls(fewest, most, levels, resample)

    def cut(self, image: Pixels) -> tuple[Patches, Grids]:
        """Patches of one image, and its grid ``(1, 3)``: patches in time, height and width.

        Patches follow each other token by token, the four of a token row by row.

        Raises:
            RejectedError: not an image, or of an absurd size.
        """
        picture = Image.fromarray(_planes(as_rgb(image)))
        height, width = fitted_size(picture.height, picture.width, self.min_pixels, self.max_pixels)
        resized = np.asarray(picture.resize((width, height), resample=self.resample))
        rows, columns = height // PATCH_PX, width // PATCH_PX
        cells = resized.reshape(rows // MERGE, MERGE, PATCH_PX, columns // MERGE, MERGE, PATCH_PX, -1)
        planes = cells.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, -1, PATCH_PX**2)
        values = planes.repeat(3 // planes.shape[1], axis=1).reshape(-1, GREY_DIM)
        return Patches(values, self.levels), np.array([[1, rows, columns]], dtype=np.int64)


def _planes(rgb: Rgb) -> Rgb:
    """One plane ``(H, W)`` where the three are the same: a third of the work, the same patches."""
    grey = rgb[:, :, 0]
    if np.array_equal(grey, rgb[:, :, 1]) and np.array_equal(grey, rgb[:, :, 2]):
        return np.ascontiguousarray(grey)
    return rgb


def pixel_budget(
    config: Mapping[str, Any], min_pixels: int | None, max_pixels: int | None
) -> tuple[int, int]:
    """Fewest and most pixels of an image.

    A folder that states no budget, or Qwen2-VL's stock one, gets `DEFAULT_MAX_PIXELS`.

    Args:
        config: An image processor's configuration.
        min_pixels: Instead of what it states; never more than the budget.
        max_pixels: Instead of what it states.
    """
    size = config.get("size") or {}
    most = config.get("max_pixels") or size.get("longest_edge")
    fewest = config.get("min_pixels") or size.get("shortest_edge")
    if max_pixels is None and (most is None or most in STOCK_MAX_PIXELS):
        logger.info("the folder states no pixel budget of its own; taking %d per image", DEFAULT_MAX_PIXELS)
        most = DEFAULT_MAX_PIXELS
    budget = max_pixels or most or DEFAULT_MAX_PIXELS
    return min(min_pixels or fewest or DEFAULT_MIN_PIXELS, budget), budget


def fitted_size(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size in whole tokens that an image is resized to: its own where that is within the budget.

    No side becomes shorter than one token, so a thin image may exceed a budget below 16,000 pixels.

    Source: arXiv:2409.12191, section 2.1; rounding as in the published image processor.
    """
    rounded = tuple(round(side / TOKEN_PX) * TOKEN_PX for side in (height, width))
    if math.prod(rounded) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return _whole(height / shrink, math.floor), _whole(width / shrink, math.floor)
    if math.prod(rounded) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return _whole(height * grow, math.ceil), _whole(width * grow, math.ceil)
    return rounded[0], rounded[1]


def _whole(side: float, rounding: Callable[[float], int]) -> int:
    return max(rounding(side / TOKEN_PX), 1) * TOKEN_PX


def _levels(mean: Sequence[float], std: Sequence[float], scale: float) -> Floats:
    """``(3, 256)``: each grey level rescaled in float64, then normalised in float32, as published."""
    mean_C1, std_C1 = (np.array(values, dtype=np.float32).reshape(3, 1) for values in (mean, std))
    if not (std_C1 > 0).all():
        raise ValueError("expected deviations above 0")
    with np.errstate(over="ignore"):  # refused below
        scaled = (np.arange(256, dtype=np.float64) * scale).astype(np.float32)
        levels: Floats = (scaled - mean_C1) / std_C1
    if not np.isfinite(levels).all():
        raise ValueError("expected finite numbers")
    return levels
