"""EchoVLM the published way: the baseline of the benchmarks, and an independent reference for tests.

Written from a description of the published implementation under transformers 4.47, which is:

- per decoder layer ``c0 * MoE(x) + c1 * MLP(x)``, ``(c0, c1) = softmax(coefficient(x))``;
- a Python loop over every expert, each with three matrices of its own, `torch.where` to find its tokens,
  `index_add_` to return them; the router in the model's dtype, its softmax in float32;
- keys and values repeated to the number of query heads, a cache that grows by concatenation, sdpa;
- in the vision tower one mask ``(1, P, P)`` over the patches of *all* images of the batch, made anew in
  every block, and attention without a batch axis, for which torch has no fused kernel: it holds the scores
  ``(H, P, P)``, so 24 images of 784 patches need 22.7 GB at 16 heads in float32;
- at prefill the logits of every prompt position over the whole vocabulary, in the model's dtype (4.47 makes
  them float32 only beside labels; ``generate`` does it for the last position);
- a left-padded batch through ``generate`` until its longest row has ended.

Two costs of the original are left out, in its favour: rotary sections are merged once per forward, not once
per layer, and the causal mask is transformers 5's. Nothing here shares memory with the model it is made from.

Shape letters: B batch, T query tokens, S cached tokens, N = B * T, D width, E experts, K experts per token,
H heads, P patches of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, GenerationConfig
from transformers.activations import ACT2FN
from transformers.initialization import no_init_weights
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VLRMSNorm,
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_vision,
)

from sonoloop.model.checkpoint import published_name, published_views
from sonoloop.model.configuration import EchoVLMConfig, EchoVLMTextConfig
from sonoloop.model.modeling import EchoVLMForConditionalGeneration, RouterSink

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the positions."""


class PublishedMlp(nn.Module):
    """down(act(gate(x)) * up(x)): the dense branch, an expert, or the shared expert."""

    def __init__(self, config: EchoVLMTextConfig, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., D)``."""
        y: Tensor = self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))
        return y


class PublishedMoe(nn.Module):
    """Experts one after the other, each over the tokens that chose it."""

    def __init__(self, config: EchoVLMTextConfig) -> None:
        super().__init__()
        self.num_active = config.num_experts_per_tok
        self.normalise = config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            PublishedMlp(config, config.moe_intermediate_size) for _ in range(config.num_experts)
        )
        self.shared_expert = PublishedMlp(config, config.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the branch's output ``(B, T, D)`` and the router logits ``(N, E)``."""
        x_ND = x_BTD.flatten(0, 1)
        logits_NE = self.gate(x_ND)
        weights_NK, index_NK = logits_NE.softmax(dim=-1, dtype=torch.float32).topk(self.num_active, dim=-1)
        if self.normalise:
            weights_NK = weights_NK / weights_NK.sum(dim=-1, keepdim=True)
        weights_NK = weights_NK.to(x_ND.dtype)
        y_ND = torch.zeros_like(x_ND)
        for number, expert in enumerate(self.experts):
            token, choice = torch.where(index_NK == number)
            y_ND.index_add_(0, token, expert(x_ND[token]) * weights_NK[token, choice, None])
        y_ND = y_ND + self.shared_expert_gate(x_ND).sigmoid() * self.shared_expert(x_ND)
        return y_ND.view_as(x_BTD), logits_NE


class PublishedAttention(nn.Module):
    """Grouped-query attention with keys and values written out for every query head."""

    def __init__(self, config: EchoVLMTextConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.num_repeats = config.num_attention_heads // config.num_key_value_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        kv_width = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, kv_width)
        self.v_proj = nn.Linear(config.hidden_size, kv_width)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, mask_B1TS: Tensor | None, rotation: Rotation, cache: Any) -> Tensor:
        """Attend to the cache and the new tokens; ``cache`` is a transformers cache or None."""
        shape = (*x_BTD.shape[:2], -1, self.head_dim)
        query, key, value = (
            project(x_BTD).view(shape).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *rotation)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        key, value = (tensor.repeat_interleave(self.num_repeats, dim=1) for tensor in (key, value))
        is_causal = mask_B1TS is None and x_BTD.shape[1] > 1
        y = functional.scaled_dot_product_attention(query, key, value, mask_B1TS, is_causal=is_causal)
        projected: Tensor = self.o_proj(y.transpose(1, 2).reshape_as(x_BTD))
        return projected


class PublishedLayer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: EchoVLMTextConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.self_attn = PublishedAttention(config, layer_idx)
        self.mlp = PublishedMlp(config, config.intermediate_size)
        self.moe = PublishedMoe(config)
        self.coefficient = nn.Linear(config.hidden_size, 2)
        self.input_layernorm = Qwen2VLRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen2VLRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: Rotation | None = None,
        past_key_values: Cache | None = None,
        router_sink: RouterSink | None = None,
        **_: Any,
    ) -> Tensor:
        """Run the layer as transformers' Qwen2-VL calls it: ``(B, T, D)`` to ``(B, T, D)``."""
        assert position_embeddings is not None, "the text model always passes the rotation"
        normed_BTD = self.input_layernorm(hidden_states)
        x_BTD = hidden_states + self.self_attn(
            normed_BTD, attention_mask, position_embeddings, past_key_values
        )
        normed_BTD = self.post_attention_layernorm(x_BTD)
        sparse_BTD, logits_NE = self.moe(normed_BTD)
        if router_sink is not None:
            router_sink[self.layer_idx] = logits_NE
        c_BT2 = self.coefficient(normed_BTD).softmax(dim=-1)
        y_BTD: Tensor = x_BTD + c_BT2[..., :1] * sparse_BTD + c_BT2[..., 1:] * self.mlp(normed_BTD)
        return y_BTD


class PublishedVisionAttention(nn.Module):
    """Full attention over the patches of all images, each image masked from the others."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x_PD: Tensor, cu_seqlens: Tensor, position_embeddings: Rotation, **_: Any) -> Tensor:
        """Map ``(P, D)`` to ``(P, D)``; ``cu_seqlens`` are the borders between images, from 0 to P."""
        qkv = self.qkv(x_PD).view(len(x_PD), 3, self.num_heads, -1)
        query, key = apply_rotary_pos_emb_vision(qkv[:, 0], qkv[:, 1], *position_embeddings)
        image_P = torch.repeat_interleave(cu_seqlens.diff())
        mask_1PP = (image_P[:, None] == image_P).unsqueeze(0)
        query, key, value = (part.transpose(0, 1) for part in (query, key, qkv[:, 2]))
        y_HPd = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_1PP)
        projected: Tensor = self.proj(y_HPd.transpose(0, 1).flatten(1))
        return projected


class PublishedEchoVLM(EchoVLMForConditionalGeneration):
    """Embeddings, positions, norms and heads are ours; all that costs time is the published way's."""

    def __init__(self, config: EchoVLMConfig) -> None:
        super().__init__(config)
        text = config.text_config
        layers = [PublishedLayer(text, number) for number in range(text.num_hidden_layers)]
        self.model.language_model.layers = nn.ModuleList(layers)
        for block in self.model.visual.blocks:
            block.attn = PublishedVisionAttention(config.vision_config)

    def _supports_logits_to_keep(self) -> bool:
        return False  # 4.47's Qwen2-VL could not leave any out


@torch.inference_mode()
def generate_rows(
    model: EchoVLMForConditionalGeneration, batch: Mapping[str, Tensor], num_new_tokens: int | Sequence[int]
) -> list[Tensor]:
    """Decode a padded batch greedily until the longest row has its tokens; no token ends a row.

    Args:
        model: The baseline, or any model of ours that attends as transformers does.
        batch: ``input_ids`` and ``attention_mask``, left padded, ``mm_token_type_ids``, and for images
            ``pixel_values`` and ``image_grid_thw``, on the model's device.
        num_new_tokens: One length for all rows, or one per row.

    Returns:
        The new tokens of each row, cut to its length, int64.
    """
    num_rows, num_prompt = batch["input_ids"].shape
    lengths = [num_new_tokens] * num_rows if isinstance(num_new_tokens, int) else list(num_new_tokens)
    config = GenerationConfig(max_new_tokens=max(lengths), do_sample=False, eos_token_id=None, pad_token_id=0)
    tokens = model.generate(**batch, generation_config=config)
    return [row[num_prompt : num_prompt + length] for row, length in zip(tokens, lengths, strict=True)]


def as_published(model: EchoVLMForConditionalGeneration) -> PublishedEchoVLM:
    """Make the baseline with a copy of a model's weights, on its device and in its dtype.

    Args:
        model: Any EchoVLM of ours; it is left as it is, so both are in memory afterwards.
    """
    with no_init_weights(), torch.device(model.device):
        published: PublishedEchoVLM = PublishedEchoVLM._from_config(
            deepcopy(model.config), dtype=model.dtype, attn_implementation="sdpa"
        )
    published.tie_weights()
    source = published_views(model.state_dict(), tied=False)
    target = {published_name(name): tensor for name, tensor in published.state_dict().items()}
    assert source.keys() == target.keys(), sorted(source.keys() ^ target.keys())
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])
    return published.eval()  # type: ignore[no-any-return]
