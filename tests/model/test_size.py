"""The published size builds without memory and counts what the release states."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_config, tiny_model

from sonoloop.model.configuration import from_published, full_size_config, to_published
from sonoloop.model.size import count_parameters


def test_the_full_size_counts_the_published_parameters_in_total_and_per_token() -> None:
    count = count_parameters(full_size_config())
    assert (count.total, count.active) == (11_683_172_920, 10_835_399_224)
    # stated as 11.68 and 10.83 billion: cut after two digits, not rounded
    assert (count.total // 10**7, count.active // 10**7) == (1168, 1083)


def test_the_full_size_survives_the_published_layout() -> None:
    config = from_published(to_published(full_size_config(), torch.bfloat16))
    assert count_parameters(config) == count_parameters(full_size_config())


@pytest.mark.parametrize("tied", [False, True])
def test_the_count_is_that_of_a_real_model(tied: bool) -> None:
    model = tiny_model(num_experts=8, num_experts_per_tok=3, tie_word_embeddings=tied)
    count = count_parameters(model.config)
    assert count.total == sum(parameter.numel() for parameter in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert count.total - count.active == experts * 5 // 8


def test_a_token_that_takes_every_expert_uses_every_parameter() -> None:
    count = count_parameters(tiny_config(num_experts=2, num_experts_per_tok=2))
    assert count.active == count.total
