"""The rows of a batch as one sequence without padding: every layer sees real tokens only.

Linear layers and experts work on tokens, whatever row they are of; attention alone knows rows, and attends
each for itself. So padding costs nothing but its ids, and no mask is made: each row's attention is causal.

Shape letters: B rows, T tokens of the longest, N real tokens of all rows, H query heads, G key heads, d head
width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sonoloop.model.modeling import EchoVLMForConditionalGeneration

ATTENTION = "sonoloop_rows"
"""Name under which `row_attention` is known to transformers."""


def use_row_attention(model: EchoVLMForConditionalGeneration) -> None:
    """Let a decoder attend row by row where it is told the rows; with any other mask it does as before."""
    AttentionInterface.register(ATTENTION, row_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.config.text_config._attn_implementation = ATTENTION


def flattened(
    model: EchoVLMForConditionalGeneration,
    attention_mask_BT: Tensor,
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_grid_thw: Tensor,
    **images: Tensor,
) -> dict[str, Any]:
    """A padded batch as one row without padding, for a model that `use_row_attention` has had.

    Args:
        model: Knows where images stand.
        attention_mask_BT: 1 for real tokens.
        input_ids: ``(B, T)``.
        mm_token_type_ids: ``(B, T)``.
        image_grid_thw: ``(images, 3)``.
        images: Passed on.

    Returns:
        Arguments of the model, tokens ``(1, N)``, row after row; the rows' lengths in the mask's place.
    """
    is_real_BT = attention_mask_BT.bool()
    positions_3BT, _ = model.model.get_rope_index(
        input_ids,
        image_grid_thw=image_grid_thw,
        attention_mask=attention_mask_BT,
        mm_token_type_ids=mm_token_type_ids,
    )
    return {
        "input_ids": input_ids[is_real_BT][None],
        "mm_token_type_ids": mm_token_type_ids[is_real_BT][None],
        "position_ids": positions_3BT[:, is_real_BT][:, None],
        "image_grid_thw": image_grid_thw,
        "attention_mask": {"full_attention": tuple(is_real_BT.sum(dim=1).tolist())},
        **images,
    }


def row_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend within each row, causally; the rows' lengths travel in the mask's place.

    Args:
        module: The attention layer.
        query: ``(1, H, N, d)``.
        key: ``(1, G, N, d)``.
        value: As ``key``.
        attention_mask: Lengths of the rows, N together; anything else is left to transformers.
        kwargs: ``scaling`` of the scores, and what only transformers asks for.

    Returns:
        ``(1, N, H, d)``, and no weights.
    """
    if not isinstance(attention_mask, tuple):
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return attended
    rows = zip(
        *(torch.split(tensor, list(attention_mask), dim=2) for tensor in (query, key, value)), strict=True
    )
    out_1HNd = torch.cat(
        [
            scaled_dot_product_attention(q, k, v, is_causal=True, scale=kwargs["scaling"], enable_gqa=True)
            for q, k, v in rows
        ],
        dim=2,
    )
    return out_1HNd.transpose(1, 2), None
