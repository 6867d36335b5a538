"""Tiny EchoVLM models of any setting with seeded weights that matter, and batches for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.modeling import EchoVLMForConditionalGeneration, image_token_types

IMAGE_TOKEN, VISION_START, VISION_END = 316, 314, 315
NUM_WORDS = 300
Grid = tuple[int, int]
"""Height and width of an image in patches of 14 pixels, both even."""

MIXED_ROWS: tuple[tuple[Grid, ...], ...] = (((2, 6), (10, 4)), (), ((2, 2),), ((6, 6), (2, 2), (4, 8)))
"""Several images per row, one row without, sizes from 28x28 to 140x56 pixels."""


def tiny_config(**changes: Any) -> EchoVLMConfig:
    """Two layers, width 64; ``changes`` go to the decoder, ``tie_word_embeddings`` to the whole."""
    tied = changes.pop("tie_word_embeddings", False)
    text = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **changes,
    }
    return EchoVLMConfig(
        text_config=text,
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
        image_token_id=IMAGE_TOKEN,
        video_token_id=317,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=tied,
    )


def tiny_model(seed: int = 0, **changes: Any) -> EchoVLMForConditionalGeneration:
    """A float32 model whose branches all weigh in, in evaluation mode."""
    model = EchoVLMForConditionalGeneration._from_config(tiny_config(**changes))
    randomise(model, seed)
    return model.eval()  # type: ignore[no-any-return]


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draw every parameter so that activations stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            is_norm_weight = name.endswith("weight")
            parameter.copy_(0.1 * noise + (1.0 if is_norm_weight else 0.0))
        else:
            # experts are stacked: their fan-in is the last axis alone
            fan_in = parameter.shape[-1] if parameter.ndim == 3 else parameter[0].numel()
            parameter.copy_(noise / math.sqrt(fan_in))


def _row(grids: Sequence[Grid], generator: torch.Generator) -> list[int]:
    def words(count: int) -> list[int]:
        return torch.randint(3, NUM_WORDS, (count,), generator=generator).tolist()

    ids = words(3)
    for height, width in grids:
        ids += [VISION_START, *[IMAGE_TOKEN] * (height * width // 4), VISION_END, *words(2)]
    return ids + words(4 + len(grids))


def tiny_batch(rows: Sequence[Sequence[Grid]] = MIXED_ROWS, seed: int = 0) -> dict[str, Tensor]:
    """A left-padded batch, one row per item, each with images of the given sizes in patches."""
    generator = torch.Generator().manual_seed(seed)
    ids = [_row(grids, generator) for grids in rows]
    width = max(map(len, ids))
    input_ids = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    batch = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "mm_token_type_ids": image_token_types(input_ids, tiny_config()),
    }
    grids = [(1, *grid) for row in rows for grid in row]
    if grids:
        num_patches = sum(math.prod(grid) for grid in grids)
        batch["pixel_values"] = torch.randn((num_patches, 1176), generator=generator)
        batch["image_grid_thw"] = torch.tensor(grids)
    return batch
