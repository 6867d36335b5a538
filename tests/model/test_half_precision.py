"""A bfloat16 model stays within stated bounds of float32 on the same weights, its router in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_config, tiny_model
from torch import Tensor

from sonoloop.model.checkpoint import load_model, save_model
from sonoloop.model.modeling import EchoVLMOutput, EchoVLMRouter, image_token_types

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("echovlm-tiny", "echovlm-tiny-hd32")
EXPERTS = ("eager", "grouped_mm", "batched_mm")

# Absolute, for logits of standard deviation 1. A token whose second expert changes differs most.
MEAN_BOUND = 0.015
LARGEST_BOUND = 0.5
SAME_EXPERTS_BOUND = 0.15  # of rows in which no token of any layer changes its experts
AGREEMENT = 0.98  # share of (layer, token) whose set of experts is the same
CLOSE_CALL = 0.02  # experts change only where their probabilities were closer than this


def both_runs(folder: Path, batch: dict[str, Tensor], experts: str) -> tuple[EchoVLMOutput, EchoVLMOutput]:
    """Float32 and bfloat16 outputs of the same weights, which bfloat16 can hold."""
    half = load_model(folder, dtype=torch.bfloat16, experts_implementation=experts)
    full = load_model(folder, dtype=torch.float32, experts_implementation=experts)
    full.load_state_dict(half.state_dict())
    with torch.no_grad():
        return full(**batch, output_router_logits=True), half(**batch, output_router_logits=True)


def golden_batch(name: str) -> dict[str, Tensor]:
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    with np.load(FIXTURES / name / "io.npz") as io:
        batch = {key: torch.from_numpy(io[key]) for key in names}
    config = load_model(FIXTURES / name).config
    return batch | {"mm_token_type_ids": image_token_types(batch["input_ids"], config)}


def chosen(output: EchoVLMOutput, num_active: int = 2) -> Tensor:
    """Which experts each token takes, ``(layers, B * T, E)`` bool."""
    assert output.router_logits is not None
    logits = torch.stack(output.router_logits)
    assert logits.dtype == torch.float32
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.topk(num_active).indices, True)


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_experts_stay_within_bounds_on_the_golden_models(name: str, experts: str) -> None:
    batch = golden_batch(name)
    full, half = both_runs(FIXTURES / name, batch, experts)
    real_BT = batch["attention_mask"].bool()
    same_LN = (chosen(full) == chosen(half)).all(dim=-1)
    assert same_LN[:, real_BT.flatten()].float().mean() >= AGREEMENT
    difference_BTV = (full.logits - half.logits.float()).abs()
    assert difference_BTV[real_BT].mean() < MEAN_BOUND
    assert difference_BTV[real_BT].max() < LARGEST_BOUND
    calm_B = (same_LN.all(dim=0).view_as(real_BT) | ~real_BT).all(dim=1)
    assert difference_BTV[calm_B][real_BT[calm_B]].max() < SAME_EXPERTS_BOUND


@pytest.mark.parametrize("name", NAMES)
def test_experts_change_only_where_the_choice_was_close(name: str) -> None:
    full, half = both_runs(FIXTURES / name, golden_batch(name), "eager")
    changed_LN = (chosen(full) != chosen(half)).any(dim=-1)
    assert full.router_logits is not None
    ranked_LNE = torch.stack(full.router_logits).softmax(dim=-1).sort(descending=True).values
    assert (ranked_LNE[..., 1] - ranked_LNE[..., 2])[changed_LN].lt(CLOSE_CALL).all()


def router(dtype: torch.dtype, *, num_experts: int = 8) -> EchoVLMRouter:
    made = EchoVLMRouter(tiny_config(num_experts=num_experts).text_config)
    torch.nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(0))
    return made.to(dtype)  # type: ignore[no-any-return]


def test_the_router_chooses_as_float32_does_from_the_same_rounded_input() -> None:
    half = router(torch.bfloat16)
    full = router(torch.float32)
    full.weight.data.copy_(half.weight)
    x = torch.randn((4000, 64), generator=torch.Generator().manual_seed(1)).bfloat16()
    logits, weights, index = half(x)
    expected_logits, expected_weights, expected_index = full(x.float())
    assert torch.equal(logits, expected_logits)
    assert torch.equal(index, expected_index)
    assert torch.equal(weights, expected_weights.bfloat16())
    rounded = (x @ half.weight.T).softmax(dim=-1, dtype=torch.float32).topk(2).indices
    assert not torch.equal(rounded, expected_index), "bfloat16 logits would have chosen the same"


def test_autocast_does_not_reach_the_router() -> None:
    full = router(torch.float32)
    x = torch.randn((500, 64), generator=torch.Generator().manual_seed(1))
    expected = full(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = full(x)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("setting", [{"norm_topk_prob": True}, {"num_experts": 8, "num_experts_per_tok": 3}])
def test_a_bfloat16_model_of_another_setting_comes_back_bit_for_bit(
    setting: dict[str, object], tmp_path: Path
) -> None:
    model = tiny_model(**setting).to(torch.bfloat16)
    save_model(model, tmp_path / "one")
    again = load_model(tmp_path / "one")
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())
    save_model(again, tmp_path / "two")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second


@pytest.mark.parametrize("experts", EXPERTS)
def test_a_bfloat16_model_trains_through_its_float32_router(experts: str, tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "model")
    model = load_model(tmp_path / "model", dtype=torch.bfloat16, experts_implementation=experts).train()
    batch = tiny_batch()
    output = model(**batch, labels=batch["input_ids"], output_router_logits=True)
    output.loss_with_aux.backward()
    gradient = model.model.language_model.layers[0].moe.gate.weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert output.aux_loss.dtype == torch.float32
