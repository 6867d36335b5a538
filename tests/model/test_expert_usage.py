"""Expert usage counts real tokens only, in training and inference, and changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_batch, tiny_model
from torch import Tensor, nn

from sonoloop.model.expert_usage import CollapsedExpert, ExpertUsage, expert_usage, real_tokens
from sonoloop.model.modeling import EchoVLMForConditionalGeneration

NUM_LAYERS, NUM_EXPERTS, NUM_ACTIVE = 2, 4, 2


@pytest.fixture(scope="module")
def model() -> EchoVLMForConditionalGeneration:
    return tiny_model()


def expected_counts(router_logits: tuple[Tensor, ...], real_BT: Tensor) -> Tensor:
    logits_LNE = torch.stack(router_logits)[:, real_BT.flatten().bool()]
    chosen = logits_LNE.topk(NUM_ACTIVE).indices
    return torch.stack([torch.bincount(layer.flatten(), minlength=NUM_EXPERTS) for layer in chosen])


@torch.no_grad()
def test_a_forward_pass_is_counted_without_padding_and_computes_the_same(
    model: EchoVLMForConditionalGeneration,
) -> None:
    batch = tiny_batch()
    before = model(**batch, output_router_logits=True)
    with expert_usage(model) as usage:
        during = model(**batch, output_router_logits=True)
    assert torch.equal(before.logits, during.logits)
    expected = expected_counts(before.router_logits, batch["attention_mask"])
    assert torch.equal(usage.counts(), expected)
    assert usage.counts().sum() == batch["attention_mask"].sum() * NUM_ACTIVE * NUM_LAYERS
    torch.testing.assert_close(usage.shares().sum(dim=1), torch.ones(NUM_LAYERS, dtype=torch.float64))
    model(**batch)
    assert torch.equal(usage.counts(), expected), "outside the block nothing is counted"


def test_generation_counts_the_prompt_and_every_new_token_once(
    model: EchoVLMForConditionalGeneration,
) -> None:
    batch = tiny_batch()
    with expert_usage(model) as usage:
        model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    num_rows = len(batch["input_ids"])
    num_tokens = int(batch["attention_mask"].sum()) + 4 * num_rows  # the fifth is never fed back
    assert usage.counts().sum(dim=1).tolist() == [num_tokens * NUM_ACTIVE] * NUM_LAYERS


def test_training_is_counted_too_and_gradients_are_the_same() -> None:
    batch = tiny_batch()

    def gradient(model: EchoVLMForConditionalGeneration) -> Tensor:
        model.zero_grad()
        model(**batch, labels=batch["input_ids"], output_router_logits=True).loss_with_aux.backward()
        found = model.model.language_model.layers[0].moe.gate.weight.grad
        assert found is not None
        return found.clone()

    model = tiny_model().train()
    expected = gradient(model)
    with expert_usage(model) as usage:
        assert torch.equal(gradient(model), expected)
        plain = usage.shares()
        usage.reset()
        model.gradient_checkpointing_enable()
        assert torch.equal(gradient(model), expected)
    torch.testing.assert_close(usage.shares(), plain)  # layers run twice, shares are what they were


def test_a_collapsed_expert_is_seen_and_named() -> None:
    model, batch = tiny_model(), tiny_batch()
    gate = model.model.language_model.layers[1].moe.gate
    with torch.no_grad(), expert_usage(model) as usage:
        model(**batch)
        assert usage.collapsed() == []
        assert (usage.balance() > 0.8).all()
        usage.reset()
        gate.weight[2] = 0
        gate.weight[3] = 0
        gate.register_forward_pre_hook(lambda _, args: (args[0].abs(),))
        gate.weight[0] = 1
        gate.weight[1] = 1
        model(**batch)
    assert usage.collapsed() == [CollapsedExpert(1, 2, 0.0), CollapsedExpert(1, 3, 0.0)]
    assert usage.least_used()[1] == 0
    assert usage.balance()[1].item() == pytest.approx(0.5)
    assert usage.least_used()[0] > 0.1
    assert usage.table().splitlines()[1] == "layer  1:  50.0  50.0   0.0   0.0  balance 0.500"


def test_figures_of_known_counts() -> None:
    usage = ExpertUsage(num_layers=2, num_experts=2)
    usage.add(0, torch.tensor([[0], [0], [0], [1]]))
    usage.expect(torch.tensor([[True, True, False, True]]))
    usage.add(1, torch.tensor([[0], [1], [1], [0]]))
    assert usage.counts().tolist() == [[3, 1], [2, 1]]
    assert usage.least_used().tolist() == pytest.approx([0.5, 2 / 3])
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert usage.balance()[0].item() == pytest.approx(entropy)
    lone = ExpertUsage(num_layers=1, num_experts=1)
    lone.add(0, torch.zeros((3, 1), dtype=torch.int64))
    assert lone.balance().tolist() == [1.0]
    assert lone.collapsed() == []


def test_a_layer_that_saw_nothing_has_no_share_and_no_collapse() -> None:
    usage = ExpertUsage(num_layers=1, num_experts=4)
    assert usage.shares().isnan().all()
    assert usage.collapsed() == []


def test_padding_is_read_from_every_form_of_mask() -> None:
    plain = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    finished = causal & plain.bool()[:, None, None, :]
    added = torch.zeros(finished.shape).masked_fill(~finished, torch.finfo(torch.float32).min)
    assert real_tokens(None, 4) is None
    assert real_tokens({"full_attention": object()}, 4) is None
    for mask in (plain, finished, added, {"full_attention": finished}):
        found = real_tokens(mask, 4)
        assert found is not None
        assert torch.equal(found, plain.bool())
    last = real_tokens(plain, 1)
    assert last is not None
    assert last.tolist() == [[True], [True]]


def test_a_model_inside_another_module_is_found_and_a_foreign_one_refused(
    model: EchoVLMForConditionalGeneration,
) -> None:
    with torch.no_grad(), expert_usage(nn.ModuleDict({"inner": model})) as usage:
        model(**tiny_batch())
    assert usage.counts().sum() > 0
    with pytest.raises(ValueError, match="found 0"), expert_usage(nn.Linear(2, 2)):
        pass
    hooks = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert hooks == []
