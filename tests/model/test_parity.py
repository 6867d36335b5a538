"""EchoVLM computes what the published implementation computed, on both tiny golden models."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sonoloop.model.checkpoint import load_model
from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.modeling import (
    EchoVLMForConditionalGeneration,
    EchoVLMOutput,
    image_token_types,
    load_balancing_loss,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("echovlm-tiny", "echovlm-tiny-hd32")

TOLERANCE = 1e-4  # largest absolute difference, float32
EXPERTS = ("eager", "grouped_mm", "batched_mm")

pytestmark = pytest.mark.parametrize("name", NAMES)


def read_io(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / name / "io.npz") as io:
        return {key: torch.from_numpy(io[key]) for key in io.files}


def model_inputs(io: dict[str, Tensor], config: EchoVLMConfig) -> dict[str, Tensor]:
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    return {key: io[key] for key in names} | {"mm_token_type_ids": image_token_types(io["input_ids"], config)}


@cache
def load(name: str, attention: str = "eager", experts: str = "eager") -> EchoVLMForConditionalGeneration:
    return load_model(FIXTURES / name, attn_implementation=attention, experts_implementation=experts)


@torch.no_grad()
def run(name: str, attention: str = "eager", experts: str = "eager") -> EchoVLMOutput:
    model, io = load(name, attention, experts), read_io(name)
    return model(**model_inputs(io, model.config), labels=io["labels"], output_router_logits=True)


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_image_features_are_the_published_ones(name: str) -> None:
    io, model = read_io(name), load(name)
    with torch.no_grad():
        features = model.get_image_features(io["pixel_values"], io["image_grid_thw"])
    assert_same(torch.cat(features.pooler_output), io["visual"])


@pytest.mark.parametrize("experts", EXPERTS)
def test_logits_and_router_logits_are_the_published_ones(name: str, experts: str) -> None:
    io, output = read_io(name), run(name, experts=experts)
    assert_same(output.logits, io["logits"])
    assert output.router_logits is not None
    assert_same(torch.stack(output.router_logits), io["router_logits"])


@pytest.mark.parametrize("experts", EXPERTS)
def test_sdpa_agrees_on_every_real_token(name: str, experts: str) -> None:
    # Padding differs: sdpa gives a fully masked query zeros, eager the mean over all tokens.
    io, output = read_io(name), run(name, "sdpa", experts)
    real_BT = io["attention_mask"].bool()
    assert_same(output.logits[real_BT], io["logits"][real_BT])
    assert output.router_logits is not None
    found, expected = torch.stack(output.router_logits), io["router_logits"]
    assert_same(found[:, real_BT.flatten()], expected[:, real_BT.flatten()])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("experts", EXPERTS)
def test_greedy_tokens_are_identical_under_left_padding(name: str, attention: str, experts: str) -> None:
    io = read_io(name)
    model = load_model(FIXTURES / name, attn_implementation=attention, experts_implementation=experts)
    model.generation_config.eos_token_id = None
    tokens = model.generate(**model_inputs(io, model.config), max_new_tokens=16, do_sample=False)
    assert torch.equal(tokens, io["generated"])


def test_loss_is_cross_entropy_of_the_published_logits(name: str) -> None:
    io = read_io(name)
    expected = cross_entropy(io["logits"][:, :-1].flatten(0, 1), io["labels"][:, 1:].flatten())
    found = run(name).loss
    assert found is not None
    assert_same(found, expected)


def test_loss_is_the_published_one(name: str) -> None:
    # The published forward with labels was not its first: from the second on, transformers 4.47 finds the
    # first's rope_deltas and counts positions 0..T-1, images and padding included. We pass those positions.
    io, model = read_io(name), load(name)
    num_rows, num_tokens = io["input_ids"].shape
    plain_3BT = torch.arange(num_tokens).expand(3, num_rows, num_tokens)
    inputs = model_inputs(io, model.config) | {"position_ids": plain_3BT, "labels": io["labels"]}
    with torch.no_grad():
        output = model(**inputs, output_router_logits=True)
    assert_same(output.loss, io["loss"])
    assert_same(output.loss_with_aux, io["loss_with_aux"])


def test_aux_loss_is_the_published_one_with_and_without_padding(name: str) -> None:
    io, output = read_io(name), run(name)
    assert output.aux_loss is not None
    assert output.router_logits is not None
    assert_same(output.aux_loss, io["aux_loss"])
    assert_same(load_balancing_loss(output.router_logits, 2), io["aux_loss_unmasked"])
    assert abs(io["aux_loss"] - io["aux_loss_unmasked"]) > 10 * TOLERANCE


def test_published_total_is_loss_plus_weighted_aux_loss(name: str) -> None:
    io, output = read_io(name), run(name)
    weight = load(name).config.text_config.router_aux_loss_coef
    assert output.loss is not None
    assert output.aux_loss is not None
    assert output.loss_with_aux is not None
    torch.testing.assert_close(output.loss_with_aux, output.loss + weight * output.aux_loss)
    torch.testing.assert_close(io["loss"] + weight * output.aux_loss, io["loss_with_aux"], atol=2e-6, rtol=0)


def test_nothing_is_collected_unless_asked(name: str) -> None:
    io, model = read_io(name), load(name)
    with torch.no_grad():
        output = model(**model_inputs(io, model.config), labels=io["labels"])
    assert output.loss is not None
    assert output.router_logits is None
    assert output.aux_loss is None
    assert output.loss_with_aux is None


def test_images_without_token_types_are_refused(name: str) -> None:
    io, model = read_io(name), load(name)
    inputs = model_inputs(io, model.config)
    del inputs["mm_token_type_ids"]
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        model(**inputs)


@pytest.mark.parametrize("part", ["moe", "coefficient", "shared_expert_gate"])
def test_parity_notices_a_wrong_branch(name: str, part: str) -> None:
    io = read_io(name)
    model = load_model(FIXTURES / name, attn_implementation="eager")
    for key, tensor in model.state_dict().items():
        if f"layers.0.{part}" in key or f".{part}.weight" in key:
            tensor.copy_(tensor.flip(0) if part == "coefficient" else torch.zeros_like(tensor))
    with torch.no_grad():
        logits = model(**model_inputs(io, model.config)).logits
    assert (logits - io["logits"]).abs().max() > 100 * TOLERANCE


def gradients(model: EchoVLMForConditionalGeneration, name: str) -> dict[str, Tensor]:
    io = read_io(name)
    model.train()
    model.zero_grad()
    output = model(**model_inputs(io, model.config), labels=io["labels"], output_router_logits=True)
    output.aux_loss.backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def test_aux_loss_has_the_same_gradients_under_checkpointing(name: str) -> None:
    model = load_model(FIXTURES / name, attn_implementation="eager")
    plain = gradients(model, name)
    model.gradient_checkpointing_enable()
    checkpointed = gradients(model, name)
    assert plain.keys() == checkpointed.keys()
    assert plain["model.language_model.layers.0.moe.gate.weight"].abs().max() > 0
    for key, gradient in plain.items():
        torch.testing.assert_close(checkpointed[key], gradient)


def test_aux_loss_without_gradient_is_refused(name: str) -> None:
    model = load_model(FIXTURES / name)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        gradients(model, name)


def test_training_step_reaches_every_parameter(name: str) -> None:
    io, model = read_io(name), load_model(FIXTURES / name).train()
    output = model(**model_inputs(io, model.config), labels=io["labels"], output_router_logits=True)
    output.loss_with_aux.backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_a_model_built_from_its_configuration_starts_at_the_right_scale(name: str) -> None:
    torch.manual_seed(0)
    config = EchoVLMConfig(**load(name).config.to_dict())
    model = EchoVLMForConditionalGeneration(config)
    moe = model.model.language_model.layers[0].moe
    std = config.text_config.initializer_range
    for weight in (moe.gate.weight, moe.experts.gate_up_proj, moe.experts.down_proj):
        assert weight.std().item() == pytest.approx(std, rel=0.2)
