"""EchoVLM inside vLLM: our own model class under vLLM's transformers backend, published weights unchanged.

vLLM builds `EchoVLMModel` on the meta device, swaps attention, linear layers and experts for its kernels, and
runs the rest of our code as it is: router, the mix of the two branches, vision tower. New here are two things
that vLLM cannot know: how published weight names map to our modules, and that images arrive as patches that
our processor made on another stage (`PreparedCase`), so vLLM neither resizes nor normalises them.

Shape letters: P patches of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.model_executor.models.transformers import TransformersMultiModalMoEForCausalLM
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ModalityDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    ProcessorInputs,
    PromptReplacement,
)

from sonoloop.model.patches import PATCH_DIM
from sonoloop.platform.errors import CheckpointError


@dataclass(frozen=True, eq=False, slots=True)
class ImagePatches:
    """One image as the vision tower reads it.

    Attributes:
        pixel_values: ``(P, 1176)`` float32, normalised.
        grid_thw: ``(3,)`` int64, patches in time, height and width.
    """

    pixel_values: Tensor
    grid_thw: Tensor


class PatchItems(ModalityDataItems):  # type: ignore[misc]  # vLLM is not in the type checker's environment
    """The images of one prompt."""

    data: Sequence[ImagePatches]

    def get_count(self) -> int:
        """How many images."""
        return len(self.data)

    def get(self, index: int) -> dict[str, Tensor]:
        """One image; vLLM's caches hash what is returned here, patches and grid."""
        image = self.data[index]
        return {"pixel_values": image.pixel_values, "grid_thw": image.grid_thw}

    def get_processor_data(self) -> Mapping[str, object]:
        """Nothing: no Hugging Face processor runs."""
        return {}

    def get_passthrough_data(self) -> Mapping[str, object]:
        """What the model's ``embed_multimodal`` takes."""
        grids_N3 = torch.stack([image.grid_thw for image in self.data])
        return {
            "pixel_values": torch.cat([image.pixel_values for image in self.data]),
            "image_grid_thw": grids_N3,
            "num_image_patches": grids_N3.prod(dim=-1),
        }


class _PatchParser(MultiModalDataParser):  # type: ignore[misc]
    def _parse_image_data(self, data: Sequence[ImagePatches] | None) -> PatchItems | None:
        return PatchItems(data, "image") if data else None


class PatchInfo(BaseProcessingInfo):  # type: ignore[misc]
    """Limits: the pixel budget arrives as ``mm_processor_kwargs={"max_pixels": ...}``."""

    def get_data_parser(self) -> MultiModalDataParser:
        """Takes lists of `ImagePatches`."""
        return _PatchParser()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Images only."""
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Tokens of the largest image, so that vLLM need not try one."""
        return {"image": self.num_tokens(self.largest_grid())}

    def num_tokens(self, grid_thw: Tensor) -> int:
        """Tokens of an image in the text model."""
        merge: int = self.get_hf_config().vision_config.spatial_merge_size
        return int(grid_thw.prod()) // merge**2

    def largest_grid(self) -> Tensor:
        """The grid of an image that fills the pixel budget: a single column of merged patches will do."""
        vision = self.get_hf_config().vision_config
        side = vision.patch_size * vision.spatial_merge_size
        budget: int = self.ctx.get_mm_config().mm_processor_kwargs["max_pixels"]
        merged = max(budget // side**2, 1)
        return torch.tensor([1, merged * vision.spatial_merge_size, vision.spatial_merge_size])


class PatchDummies(BaseDummyInputsBuilder):  # type: ignore[misc]
    """The largest images, for vLLM's measurement of memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Unused: `PatchProcessor.get_dummy_inputs` writes token ids."""
        return ""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any
    ) -> dict[str, Any]:
        """As many images of the full budget as asked for."""
        grid = self.info.largest_grid()
        image = ImagePatches(torch.zeros(int(grid.prod()), PATCH_DIM), grid)
        return {"image": [image] * mm_counts.get("image", 0)}


class PatchProcessor(BaseMultiModalProcessor):  # type: ignore[misc]
    """Places images whose tokens are already spelled out in the prompt."""

    requires_tokenizer = False

    def get_dummy_inputs(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any
    ) -> ProcessorInputs:
        """A prompt of nothing but the largest images."""
        data = self.dummy_inputs.get_dummy_mm_data(seq_len, mm_counts, mm_options)
        num_tokens = sum(self.info.num_tokens(image.grid_thw) for image in data["image"])
        prompt = [self.info.get_hf_config().image_token_id] * num_tokens
        return ProcessorInputs(prompt=prompt, mm_data_items=self.info.parse_mm_data(data, validate=False))

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        sizes = hf_inputs.get("num_image_patches", torch.empty(0, dtype=torch.long))
        return {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", sizes),
            "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
            "num_image_patches": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        token_id: int = self.info.get_hf_config().image_token_id
        images = mm_items["image"].data if "image" in mm_items else []
        return [
            PromptReplacement(
                modality="image",
                target=[token_id],
                replacement=lambda index: [token_id] * self.info.num_tokens(images[index].grid_thw),
            )
        ]

    def _apply_prompt_updates(self, token_ids: list[int], mm_prompt_updates: Any) -> tuple[list[int], Any]:
        # vLLM would expand one token per image; ours are expanded, so the runs only need to be found
        return token_ids, self._find_mm_placeholders(token_ids, mm_prompt_updates)


@MULTIMODAL_REGISTRY.register_processor(PatchProcessor, info=PatchInfo, dummy_inputs=PatchDummies)
class EchoVLMForConditionalGeneration(TransformersMultiModalMoEForCausalLM):  # type: ignore[misc]
    """`EchoVLMModel` in vLLM's transformers backend, fed from the published checkpoint."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load published weights; vLLM by itself leaves a missing one as it found the memory.

        Raises:
            CheckpointError: a parameter of the model received no weight.
        """
        loaded: set[str] = super().load_weights((_module_name(name), tensor) for name, tensor in weights)
        tied = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
        if missing := {name for name, _ in self.named_parameters()} - loaded - tied:
            raise CheckpointError(f"missing weights ({len(missing)}): {', '.join(sorted(missing)[:8])}")
        return loaded


def _module_name(published: str) -> str:
    """Published name -> the module's name in `EchoVLMModel`, as vLLM holds it under ``model``."""
    if published.startswith("model."):
        return "model.language_model." + published.removeprefix("model.")
    return "model." + published if published.startswith("visual.") else published
