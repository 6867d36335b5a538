"""Recipes: what each of them says, and what it does to a model."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from tiny import tiny_batch, tiny_model
from torch import Tensor, nn

from sonoloop.model.checkpoint import load_model, save_model
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.training.objective import Objective
from sonoloop.model.training.recipes import ALL, MOE, Part, RecipeConfig, RecipeName, recipe
from sonoloop.model.training.trainable import (
    make_trainable,
    merge,
    parameter_groups,
    part_of,
)
from sonoloop.platform.errors import CheckpointError

NAMES: tuple[RecipeName, ...] = get_args(RecipeName)


def supervised_batch(seed: int = 0) -> dict[str, Tensor]:
    """The tiny batch with its words as labels, rows weighted alike."""
    batch = tiny_batch(seed=seed)
    is_word = (batch["attention_mask"] == 1) & (batch["input_ids"] < 300)
    batch["labels"] = batch["input_ids"].where(is_word, -100)
    batch["weights"] = torch.ones(len(is_word))
    return batch


def trained(model: EchoVLMForConditionalGeneration, config: RecipeConfig, num_steps: int = 3) -> None:
    make_trainable(model, config)
    optimizer = torch.optim.AdamW(parameter_groups(model, config, learning_rate=1e-3, weight_decay=0.1))
    objective = Objective(model.train())
    for step in range(num_steps):
        optimizer.zero_grad()
        objective(**supervised_batch(step))["total"].backward()
        optimizer.step()
    model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(**tiny_batch(seed=9)).logits
    return found


def test_a_recipe_is_named_and_each_field_can_be_changed_alone() -> None:
    changed = RecipeConfig.model_validate({"name": "stage2", "adapter": {"rank": 8}})
    assert changed.adapter is not None
    assert (changed.adapter.rank, changed.adapter.parts) == (8, ("attention", "vision", "merger"))
    assert changed.train == recipe("stage2").train == MOE
    assert recipe("full").train == ALL == get_args(Part)
    assert recipe("corrections").replay == 1.0
    assert recipe("upcycle").upcycles


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"name": "stage3"}, "stage1"),
        ({"name": "stage1", "lr": 1}, "Extra inputs"),
        ({"name": "stage1", "train": []}, "needs an adapter"),
        ({"name": "stage1", "train": ["router", "attention"], "adapter": {}}, "not both"),
        ({"name": "stage1", "adapter": {"parts": ["embedding"]}}, "cannot be adapted"),
        ({"name": "stage1", "tasks": {"caption": 1}}, "caption"),
        ({"name": "stage1", "tasks": {"report": 0}}, "share above 0"),
        ({"name": "stage1", "rate_scales": {"router": 0}}, "greater than 0"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(given: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        RecipeConfig.model_validate(given)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_recipe_freezes_stays_bit_for_bit_and_the_rest_moves(name: RecipeName) -> None:
    config, model = recipe(name), tiny_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trained(model, config)
    merge(model)
    after = model.state_dict()
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    adapted = config.adapter.parts if config.adapter else ()
    assert after.keys() == before.keys()
    for key, tensor in after.items():
        moves = part_of(key) in config.train or (part_of(key) in adapted and key in linear)
        assert torch.equal(tensor, before[key]) is not moves, key


@pytest.mark.parametrize("name", ["corrections", "stage2"])
def test_merging_keeps_what_the_adapted_model_computes(name: RecipeName) -> None:
    model = tiny_model()
    untrained = logits(model)
    trained(model, recipe(name))
    adapted = logits(model)
    merge(model)
    assert (adapted - untrained).abs().max() > 0.1
    # float32: one rounding of the folded matrix against two products
    torch.testing.assert_close(logits(model), adapted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_model_saves_in_the_published_layout_and_loads_equal(tied: bool, tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    save_model(model, tmp_path / "before")
    trained(model, recipe("corrections"))
    merge(model)
    save_model(model, tmp_path / "after")
    loaded = load_model(tmp_path / "after")
    assert loaded.state_dict().keys() == load_model(tmp_path / "before").state_dict().keys()
    assert torch.equal(logits(loaded), logits(model))


def test_an_unmerged_model_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    model = tiny_model()
    make_trainable(model, recipe("corrections"))
    with pytest.raises(CheckpointError, match="missing weights"):
        save_model(model, tmp_path)


def test_groups_hold_every_trained_parameter_once_and_decay_matrices_only() -> None:
    config = RecipeConfig.model_validate({"name": "stage2", "rate_scales": {"router": 0.5}})
    model = tiny_model()
    make_trainable(model, config)
    groups = parameter_groups(model, config, learning_rate=1e-4, weight_decay=0.1)
    of = {id(p): group for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p) for p in learning.values()} == set(of)
    for name, parameter in learning.items():
        scale = 10 if "lora_" in name else 0.5 if part_of(name) == "router" else 1
        assert of[id(parameter)]["lr"] == pytest.approx(1e-4 * scale)
        assert of[id(parameter)]["weight_decay"] == (0.0 if name.endswith("bias") else 0.1)


def test_every_start_draws_the_same_adapters_and_leaves_the_random_numbers_alone() -> None:
    first, second = tiny_model(), tiny_model()
    torch.manual_seed(1)
    make_trainable(first, recipe("stage2"))
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    make_trainable(second, recipe("stage2"))
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), name
