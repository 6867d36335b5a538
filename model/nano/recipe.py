"""Nano's recipe: the numbers of its training, and its architecture."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.nano.tokenizer import SPECIAL_TOKENS


class NanoConfig(BaseModel):
    """The recipe's numbers; the defaults made the weights in this repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(20_251, description="of phantoms, initial weights and order")
    num_cases: int = Field(6000, ge=8, description="training cases drawn")
    num_texts: int = Field(4000, ge=8, description="drawn reports that train the tokenizer")
    num_held_out: int = Field(240, ge=4, description="phantoms per kind that score the weights")
    vocab_size: int = Field(1280, ge=512, description="tokens, a few of them spare")
    warmup_steps: int = Field(1200, ge=1, description="optimiser steps with direct heads")
    warmup_batch: int = Field(16, ge=1, description="images per warm-up step")
    steps: int = Field(1300, ge=1, description="optimiser steps on conversations")
    batch: int = Field(16, ge=1, description="cases per step")
    warmup_lr: float = Field(1.5e-3, gt=0, description="peak learning rate, warm-up")
    lr: float = Field(1.5e-3, gt=0, description="peak learning rate, conversations")
    vision_lr_scale: float = Field(0.5, gt=0, le=1, description="the tower's share of lr after warm-up")
    weight_decay: float = Field(0.05, ge=0, description="AdamW, matrices only")
    aux_coef: float = Field(0.01, ge=0, description="weight of the router's load-balancing loss")
    head_coef: float = Field(0.2, ge=0, description="weight of the direct heads beside the conversations")
    edge_coef: float = Field(0.5, ge=0, description="weight of the soft loss on box edges")
    num_processes: int = Field(2, ge=1, description="processes of one thread that share each batch")


def nano_config(config: NanoConfig) -> EchoVLMConfig:
    """The architecture: 4.7 million parameters, of which 1.3 in the vision tower."""
    ids = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    return EchoVLMConfig(
        text_config={
            "vocab_size": config.vocab_size,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 96,
            "shared_expert_intermediate_size": 96,
            "norm_topk_prob": False,
            "initializer_range": 0.05,
            "router_aux_loss_coef": config.aux_coef,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={"depth": 4, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 4},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
