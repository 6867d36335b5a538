"""How many parameters a configuration has, and how many of them one token uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.initialization import no_init_weights

from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.modeling import EchoVLMForConditionalGeneration


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """The size of a model, as a model card states it.

    Attributes:
        total: All parameters, vision tower and embeddings included, a tied head counted once.
        active: What one token uses: ``total`` less, in every layer, the experts that it does not choose.
    """

    total: int
    active: int


def count_parameters(config: EchoVLMConfig) -> ParameterCount:
    """Count on the meta device: no weights are made, so the full size takes a fraction of a second."""
    with no_init_weights(), torch.device("meta"):
        model = EchoVLMForConditionalGeneration(config)
    model.tie_weights()
    total: int = model.num_parameters()
    text = config.text_config
    num_idle = text.num_experts - text.num_experts_per_tok
    per_expert = 3 * text.hidden_size * text.moe_intermediate_size  # gate, up and down
    return ParameterCount(total, total - text.num_hidden_layers * num_idle * per_expert)
