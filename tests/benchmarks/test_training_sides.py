"""The two sides of the training benchmark learn the same from the same rows."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from benchmarks.published import as_published
from benchmarks.training import (
    PAD,
    Side,
    draw_conversations,
    masked_in_python,
    our_batches,
    published_batches,
)
from benchmarks.workload import SIZES, build_model

from sonoloop.model.supervised import collate

ARGS = Namespace(recipe="full", checkpointing=False, device="cpu", batch=2)
TINY = {"hidden": 128, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": 500, "vision": 64, "depth": 2}


def test_both_sides_mask_alike_and_see_every_conversation_once() -> None:
    examples = draw_conversations(6, 56, 500, seed=0)
    inputs = collate(examples, PAD)
    assert torch.equal(masked_in_python(inputs["input_ids"]), inputs["labels"])
    real = sum(len(example.input_ids) for example in examples)
    for batches in (our_batches, published_batches):
        found = list(batches(examples, 4, 0))
        assert sum(int(batch["attention_mask"].sum()) for batch in found) == real


def test_both_sides_find_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(SIZES, "tiny", TINY)
    model = build_model("tiny", torch.float32, "cpu")
    model.config.text_config.router_aux_loss_coef = 0.0  # the published side has no auxiliary loss
    sides = [Side("published", as_published(model), ARGS), Side("ours", model, ARGS)]
    inputs = collate(draw_conversations(3, 56, 500, seed=0), PAD)
    for side in sides:
        given = {name: tensor for name, tensor in inputs.items() if side.name == "ours" or name != "weights"}
        side.loss(given).backward()  # type: ignore[no-untyped-call]
    published, ours = (dict(side.model.named_parameters()) for side in sides)
    shared = published.keys() & ours.keys()
    assert len(shared) > 60
    for name in shared:
        torch.testing.assert_close(ours[name].grad, published[name].grad, rtol=1e-3, atol=1e-6)
    for layer in range(model.config.text_config.num_hidden_layers):
        prefix = f"model.language_model.layers.{layer}.moe.experts."
        for expert, gradient in enumerate(ours[f"{prefix}down_proj"].grad):
            expected = published[f"{prefix}{expert}.down_proj.weight"].grad
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
