"""EchoVLM: Qwen2-VL with a sparse block of experts beside the dense MLP of every decoder layer.

Shape letters: B batch, T tokens per row, N = B * T, D model width, E experts, K experts per token,
V vocabulary.

Vision tower, attention, rotary positions and generation are transformers' Qwen2-VL; the experts are its
Qwen2-MoE's. New here are the router in float32, the mix of the two branches and the way router logits reach
the auxiliary loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init
from transformers.models.qwen2_moe.modeling_qwen2_moe import (
    Qwen2MoeExperts,
    Qwen2MoeMLP,
    Qwen2MoeTopKRouter,
    load_balancing_loss_func,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLCausalLMOutputWithPast,
    Qwen2VLDecoderLayer,
    Qwen2VLForConditionalGeneration,
    Qwen2VLModel,
    Qwen2VLPreTrainedModel,
    Qwen2VLRMSNorm,
    Qwen2VLRotaryEmbedding,
    Qwen2VLTextModel,
)
from transformers.utils.generic import maybe_autocast

from sonoloop.model.configuration import EchoVLMConfig, EchoVLMTextConfig
from sonoloop.platform.errors import CheckpointError

RouterSink = dict[int, Tensor]
"""Layer index -> router logits ``(N, E)``; a layer that runs again for checkpointing rewrites its own."""


@dataclass
class EchoVLMOutput(Qwen2VLCausalLMOutputWithPast):  # type: ignore[misc]  # transformers ships no types
    """What a forward pass gives; a field is None where it was not asked for.

    Attributes:
        loss: Cross-entropy of the labels, scalar float32, without the auxiliary loss.
        aux_loss: Load-balancing loss over all layers, padding left out, scalar float32.
        loss_with_aux: ``loss + router_aux_loss_coef * aux_loss``: what training minimises.
        router_logits: One ``(N, E)`` per layer, float32 in every model.
    """

    aux_loss: Tensor | None = None
    loss_with_aux: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None


def image_token_types(input_ids_BT: Tensor, config: EchoVLMConfig) -> Tensor:
    """Mark image tokens, as transformers' M-RoPE wants them when a processor did not.

    Returns:
        ``(B, T)`` int64: 0 text, 1 image. Pass it as ``mm_token_type_ids``.
    """
    image_token_id: int = config.image_token_id
    return (input_ids_BT == image_token_id).long()


def load_balancing_loss(
    router_logits: tuple[Tensor, ...], num_active: int, attention_mask_BT: Tensor | None = None
) -> Tensor:
    """Penalise experts with more than their share: E * sum over E of (share of tokens * mean probability).

    Args:
        router_logits: One ``(N, E)`` per layer; all layers are one population.
        num_active: K, from 1 to E.
        attention_mask_BT: 1 for real tokens, 0 for padding, which then does not count; None counts all.

    Returns:
        Scalar float32, K when the load is even.

    Source: arXiv:2101.03961, eq. 4 to 6, with K choices per token as in transformers' Qwen2-MoE.
    """
    num_experts = router_logits[0].shape[-1]
    loss: Tensor = load_balancing_loss_func(router_logits, num_experts, num_active, attention_mask_BT)
    return loss


class EchoVLMRouter(Qwen2MoeTopKRouter):  # type: ignore[misc]  # transformers ships no types
    """Chooses the experts in float32, whatever the dtype of the model and under autocast.

    Rounded to bfloat16, two logits that differ by less than 0.4 % are equal, and the choice between them
    falls to the order of the experts. The parameter keeps the model's dtype, so checkpoints and ZeRO see no
    difference.
    """

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route tokens.

        Args:
            hidden_states: ``(N, D)``, any float dtype.

        Returns:
            Logits ``(N, E)``, float32; weights ``(N, K)`` in ``hidden_states``' dtype, as the experts want
            them; expert indices ``(N, K)``, int64.
        """
        x_ND = hidden_states.reshape(-1, self.hidden_dim)
        with maybe_autocast(device_type=x_ND.device.type, enabled=False):
            logits_NE = functional.linear(x_ND.float(), self.weight.float())
            weights_NK, index_NK = logits_NE.softmax(dim=-1).topk(self.top_k, dim=-1)
            if self.norm_topk_prob:
                weights_NK = weights_NK / weights_NK.sum(dim=-1, keepdim=True)
        return logits_NE, weights_NK.to(x_ND.dtype), index_NK


class EchoVLMSparseMoe(nn.Module):
    """K of E experts per token, and one shared expert behind a sigmoid gate."""

    def __init__(self, config: EchoVLMTextConfig) -> None:
        super().__init__()
        self.gate = EchoVLMRouter(config)
        self.experts = Qwen2MoeExperts(config)
        self.shared_expert = Qwen2MoeMLP(config, intermediate_size=config.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the branch's output ``(B, T, D)``, in x's dtype, and router logits ``(N, E)``, float32."""
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_NE, weights_NK, index_NK = self.gate(x_ND)
        routed_ND = self.experts(x_ND, index_NK, weights_NK)
        shared_ND = torch.sigmoid(self.shared_expert_gate(x_ND)) * self.shared_expert(x_ND)
        return (routed_ND + shared_ND).view_as(x_BTD), logits_NE


class EchoVLMDecoderLayer(Qwen2VLDecoderLayer):  # type: ignore[misc]  # transformers ships no types
    """Attention, then y = c0 * MoE(x) + c1 * MLP(x) with (c0, c1) = softmax(coefficient(x)) per token."""

    def __init__(self, config: EchoVLMTextConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.layer_idx = layer_idx
        self.moe = EchoVLMSparseMoe(config)
        self.coefficient = nn.Linear(config.hidden_size, 2)

    def _mix(self, x_BTD: Tensor, router_sink: RouterSink | None) -> Tensor:
        sparse_BTD, logits_NE = self.moe(x_BTD)
        if router_sink is not None:
            router_sink[self.layer_idx] = logits_NE
        c_BT2 = self.coefficient(x_BTD).softmax(dim=-1)
        mixed_BTD: Tensor = c_BT2[..., :1] * sparse_BTD + c_BT2[..., 1:] * self.mlp(x_BTD)
        return mixed_BTD

    def forward(
        self, hidden_states: Tensor, router_sink: RouterSink | None = None, **attention: Any
    ) -> Tensor:
        """Run one layer.

        Args:
            hidden_states: ``(B, T, D)``.
            router_sink: Where to leave the router logits; None leaves none.
            attention: The attention's own arguments, as ``Qwen2VLDecoderLayer.forward`` takes them.

        Returns:
            ``(B, T, D)``.
        """
        attended_BTD, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **attention)
        x_BTD: Tensor = hidden_states + attended_BTD
        return x_BTD + self._mix(self.post_attention_layernorm(x_BTD), router_sink)


class EchoVLMPreTrainedModel(Qwen2VLPreTrainedModel):  # type: ignore[misc]  # transformers ships no types
    """What all three EchoVLM models share with transformers' machinery."""

    config_class = EchoVLMConfig
    config: EchoVLMConfig
    _no_split_modules = ["EchoVLMDecoderLayer", "Qwen2VLVisionBlock"]  # noqa: RUF012

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for a decorator's name in this file's text; the decorated class is imported here.
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.get_text_config().initializer_range
        if isinstance(module, Qwen2MoeExperts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)
        elif isinstance(module, Qwen2MoeTopKRouter):
            init.normal_(module.weight, mean=0.0, std=std)

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> NoReturn:
        """Refuse: transformers would fill expert weights it cannot find with random numbers.

        Raises:
            CheckpointError: Always; use ``sonoloop.model.checkpoint.load_model``.
        """
        raise CheckpointError("load EchoVLM with sonoloop.model.checkpoint.load_model")

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: transformers would write names and a configuration that the published code cannot read.

        Raises:
            CheckpointError: Always; use ``sonoloop.model.checkpoint.save_model``.
        """
        raise CheckpointError("save EchoVLM with sonoloop.model.checkpoint.save_model")


# The three constructors below skip their Qwen2-VL parent's, which would build the dense model first.


class EchoVLMTextModel(EchoVLMPreTrainedModel, Qwen2VLTextModel):  # type: ignore[misc]
    """The decoder: ``Qwen2VLTextModel`` over EchoVLM's layers."""

    config_class = EchoVLMTextConfig
    config: EchoVLMTextConfig

    def __init__(self, config: EchoVLMTextConfig) -> None:
        Qwen2VLPreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList([EchoVLMDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self._attn_implementation = config._attn_implementation
        self.norm = Qwen2VLRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.has_sliding_layers = "sliding_attention" in config.layer_types
        self.rotary_emb = Qwen2VLRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class EchoVLMModel(EchoVLMPreTrainedModel, Qwen2VLModel):  # type: ignore[misc]
    """Vision tower and decoder."""

    _decoder_class = EchoVLMTextModel

    def __init__(self, config: EchoVLMConfig) -> None:
        Qwen2VLPreTrainedModel.__init__(self, config)
        self.visual = Qwen2VisionTransformerPretrainedModel._from_config(config.vision_config)
        self.language_model = self._decoder_class._from_config(config.text_config)
        self.rope_deltas = None
        self.post_init()

    def get_image_features(
        self, pixel_values: Tensor, image_grid_thw: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """As ``Qwen2VLModel``; the vision tower has no router, so the sink stops here."""
        kwargs.pop("router_sink", None)
        return super().get_image_features(pixel_values, image_grid_thw, **kwargs)


class EchoVLMForConditionalGeneration(EchoVLMPreTrainedModel, Qwen2VLForConditionalGeneration):  # type: ignore[misc]
    """EchoVLM with its language head; ``generate`` is transformers' own."""

    def __init__(self, config: EchoVLMConfig) -> None:
        Qwen2VLPreTrainedModel.__init__(self, config)
        self.model = EchoVLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def _aux_loss(self, router_logits: tuple[Tensor, ...], attention_mask_BT: Tensor | None) -> Tensor:
        router = self.model.language_model.layers[0].moe.gate
        if torch.is_grad_enabled() and router.weight.requires_grad and not router_logits[0].requires_grad:
            raise RuntimeError(
                "the auxiliary loss has no gradient: enable gradient checkpointing with use_reentrant=False"
            )
        return load_balancing_loss(
            router_logits, self.config.text_config.num_experts_per_tok, attention_mask_BT
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_router_logits: bool | None = None,
        **kwargs: Any,
    ) -> EchoVLMOutput:
        """Run the model.

        Args:
            input_ids: ``(B, T)`` int64.
            attention_mask: ``(B, T)``, 1 for real tokens, 0 for padding, which stands on the left.
            position_ids: ``(3, B, T)`` or ``(4, B, T)``; None derives them from the images.
            past_key_values: The cache of a generation under way.
            inputs_embeds: ``(B, T, D)`` in place of ``input_ids``.
            labels: ``(B, T)`` int64, -100 where no loss is wanted; shifted inside.
            use_cache: Whether to fill a cache.
            pixel_values: Patches of all images, ``(patches, 1176)``, normalised.
            image_grid_thw: ``(images, 3)`` int64, patches over time, height and width.
            mm_token_type_ids: ``(B, T)``, 0 text, 1 image; required with images (``image_token_types``).
            logits_to_keep: Keep the logits of the last so many tokens; 0 keeps all.
            output_router_logits: Return router logits and, with labels, the auxiliary loss. None follows the
                configuration. Without it nothing is collected.
            kwargs: Whatever else ``Qwen2VLForConditionalGeneration.forward`` takes.

        Returns:
            Logits ``(B, T, V)`` and what was asked for, always as a record.

        Raises:
            RuntimeError: The auxiliary loss was asked for under reentrant checkpointing: no gradient there.
        """
        if output_router_logits is None:
            output_router_logits = self.config.text_config.output_router_logits
        sink: RouterSink | None = {} if output_router_logits else None
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            logits_to_keep=logits_to_keep,
            router_sink=sink,
            **(kwargs | {"return_dict": True}),
        )
        return self._with_router(EchoVLMOutput(**outputs), sink, attention_mask)

    def _with_router(
        self, output: EchoVLMOutput, sink: RouterSink | None, attention_mask_BT: Tensor | None
    ) -> EchoVLMOutput:
        if sink is None:
            return output
        output.router_logits = tuple(sink.values())
        if output.loss is not None:
            output.aux_loss = self._aux_loss(output.router_logits, attention_mask_BT)
            output.loss_with_aux = (
                output.loss + self.config.text_config.router_aux_loss_coef * output.aux_loss
            )
        return output
