"""EchoVLM's configuration: nested in memory, the published flat ``config.json`` on disk.

The published file is Qwen2-VL's of transformers 4.47 with the expert fields beside the rest, and has quirks:
``model_type`` says ``qwen2_vl``; the rope type reads ``default`` beside an ``mrope_section``; the vision part
leaves out whatever equals its defaults and says ``in_chans``, which nobody reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.models.qwen2_vl.configuration_qwen2_vl import (
    Qwen2VLConfig,
    Qwen2VLTextConfig,
    Qwen2VLVisionConfig,
)

from sonoloop.platform.errors import CheckpointError

CONFIG_FILE = "config.json"
MOE_FIELDS = (
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
)
_SIZE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
)
_REQUIRED_FIELDS = (*_SIZE_FIELDS, *MOE_FIELDS, "vision_config", "rope_scaling", "rope_theta")
_TEXT_FIELDS = (
    *_SIZE_FIELDS,
    *MOE_FIELDS,
    "norm_topk_prob",
    "output_router_logits",
    "router_aux_loss_coef",
    "attention_dropout",
    "initializer_range",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_ROOT_FIELDS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "tie_word_embeddings",
)
_VISION_FIELDS = (
    "depth",
    "embed_dim",
    "hidden_size",
    "hidden_act",
    "mlp_ratio",
    "num_heads",
    "in_channels",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
)


class EchoVLMTextConfig(Qwen2VLTextConfig):  # type: ignore[misc]  # transformers ships no types
    """The decoder: Qwen2-VL's fields and the expert branch of every layer.

    The expert sizes default to those that give the published count of 11.68 B at Qwen2-VL-7B's width.
    """

    model_type = "echovlm_text"

    num_experts: int = 4
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632
    norm_topk_prob: bool = False
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001


class EchoVLMConfig(Qwen2VLConfig):  # type: ignore[misc]  # transformers ships no types
    """EchoVLM: a vision tower, a decoder, the ids of the image tokens.

    ``published`` holds the ``config.json`` this was read from, so that fields nobody models survive a save.
    """

    model_type = "echovlm"
    sub_configs = {"vision_config": Qwen2VLVisionConfig, "text_config": EchoVLMTextConfig}  # noqa: RUF012

    published: dict[str, Any] | None = None


def full_size_config() -> EchoVLMConfig:
    """The size of the published release: Qwen2-VL-7B's decoder and vision tower with our default experts.

    Sources: the sizes of Qwen2-VL-7B-Instruct's ``config.json``. The expert sizes are Qwen2-MoE's defaults in
    transformers, chosen because they meet both published counts (`sonoloop.model.size`): 11.683 B in total,
    stated as 11.68, and 10.835 B active per token, stated as 10.83. The release's own file was not seen.
    """
    text = {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    return EchoVLMConfig(text_config=text, vision_config={})


def has_moe_fields(published: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` describes experts; its ``model_type`` says ``qwen2_vl`` either way."""
    return all(field in published for field in MOE_FIELDS)


def _check_sizes(published: Mapping[str, Any]) -> None:
    if missing := [field for field in _REQUIRED_FIELDS if field not in published]:
        raise CheckpointError(
            f"{CONFIG_FILE} is not EchoVLM's: it lacks {', '.join(missing)}. "
            "A dense Qwen2-VL folder cannot be loaded as EchoVLM; take the EchoVLM release."
        )
    num_experts, num_active = published["num_experts"], published["num_experts_per_tok"]
    if not 1 <= num_active <= num_experts:
        raise CheckpointError(f"num_experts_per_tok must be in 1..{num_experts}, found {num_active}")
    if published.get("use_sliding_window"):
        raise CheckpointError("use_sliding_window is true; only full attention is checked against EchoVLM")


def _rope_parameters(published: Mapping[str, Any]) -> dict[str, Any]:
    """Read the rotary embedding; ``default`` and ``mrope`` both name Qwen2-VL's three-axis rotation."""
    scaling = published["rope_scaling"] or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    section = scaling.get("mrope_section")
    if kind not in ("default", "mrope") or not section:
        raise CheckpointError(f"rope_scaling must be default or mrope with an mrope_section, found {scaling}")
    half_head_dim = published["hidden_size"] // published["num_attention_heads"] // 2
    if sum(section) != half_head_dim:
        raise CheckpointError(f"mrope_section {section} must add up to half the head, {half_head_dim}")
    return {"rope_type": "default", "rope_theta": published["rope_theta"], "mrope_section": list(section)}


def from_published(published: Mapping[str, Any]) -> EchoVLMConfig:
    """Read the flat published layout.

    Args:
        published: The parsed ``config.json``.

    Raises:
        CheckpointError: A field is missing, or describes something EchoVLM is not.
    """
    _check_sizes(published)
    vision = published["vision_config"]
    return EchoVLMConfig(
        text_config={
            **{field: published[field] for field in _TEXT_FIELDS if field in published},
            "rope_parameters": _rope_parameters(published),
        },
        vision_config={field: vision[field] for field in _VISION_FIELDS if field in vision},
        **{field: published[field] for field in _ROOT_FIELDS if field in published},
        dtype=published.get("torch_dtype", "float32"),
        published=dict(published),
    )


def _published_defaults(config: EchoVLMConfig) -> dict[str, Any]:
    """What the published writer adds around the fields, for a configuration that was not read from a file."""
    rope = config.text_config.rope_parameters
    return {
        "architectures": ["Qwen2VLMOEForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "max_window_layers": 80,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {
            "mrope_section": list(rope["mrope_section"]),
            "rope_type": "default",
            "type": "default",
        },
        "transformers_version": "4.47.0",  # the version whose layout this is
        "vision_config": {"in_chans": 3, "model_type": "qwen2_vl"},
    }


def to_published(config: EchoVLMConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Write the flat published layout; a configuration that was read from it comes back unchanged.

    Args:
        config: The nested configuration.
        dtype: The dtype of the weights beside it.
    """
    flat = _published_defaults(config) | (config.published or {})
    default_vision = Qwen2VLVisionConfig()
    vision = {field: getattr(config.vision_config, field) for field in _VISION_FIELDS}
    changed = {field: value for field, value in vision.items() if value != getattr(default_vision, field)}
    text = {field: getattr(config.text_config, field) for field in _TEXT_FIELDS}
    return {
        **flat,
        **{field: value for field, value in text.items() if value is not None or field in flat},
        **{field: getattr(config, field) for field in _ROOT_FIELDS},
        "vision_config": flat["vision_config"] | changed,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def read_published(folder: Path) -> dict[str, Any]:
    """Read a folder's ``config.json`` as it stands.

    Raises:
        CheckpointError: The file is absent or is not a JSON object.
    """
    path = folder / CONFIG_FILE
    try:
        published = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise CheckpointError(f"{path} is missing; a model folder holds {CONFIG_FILE} and weights") from err
    except ValueError as err:
        raise CheckpointError(f"{path} is not valid JSON; copy the model folder again") from err
    if not isinstance(published, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found a {type(published).__name__}")
    return published


def read_config(folder: Path) -> EchoVLMConfig:
    """Read the configuration of a published EchoVLM folder.

    Raises:
        CheckpointError: As ``read_published`` and ``from_published``.
    """
    return from_published(read_published(folder))
