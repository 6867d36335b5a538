"""Every setting that a published configuration can hold, against the published way of computing it.

The reference is `benchmarks.published`: other code for experts, router, mix and both attentions, itself held
to the golden fixtures.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.published import as_published, generate_rows
from tiny import MIXED_ROWS, tiny_batch, tiny_model
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig

from sonoloop.model.checkpoint import load_model, save_model
from sonoloop.model.modeling import EchoVLMForConditionalGeneration, load_balancing_loss

TOLERANCE = 1e-4  # largest absolute difference, float32
EXPERTS = ("eager", "grouped_mm", "batched_mm")
NUM_TOKENS = 8
SETTINGS = [
    {"num_experts": experts, "num_experts_per_tok": active, "norm_topk_prob": norm}
    for experts, active in [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4), (8, 1), (8, 3), (8, 8)]
    for norm in (False, True)
] + [
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": True, "num_experts": 8, "norm_topk_prob": True},
    {"num_attention_heads": 4, "num_key_value_heads": 4},
    {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 16},
]


def setting_name(setting: dict[str, object]) -> str:
    return "-".join(f"{key.removeprefix('num_')}={value}" for key, value in setting.items())


def greedy(model: EchoVLMForConditionalGeneration, batch: dict[str, Tensor]) -> Tensor:
    config = GenerationConfig(max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
    return model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :]


@torch.no_grad()
@pytest.mark.parametrize("setting", SETTINGS, ids=setting_name)
def test_logits_loss_and_greedy_tokens_are_the_published_ones(
    setting: dict[str, object], tmp_path: Path
) -> None:
    source = tiny_model(**setting)
    save_model(source, tmp_path / "model")
    reference, batch = as_published(source), tiny_batch()
    real_BT = batch["attention_mask"].bool()
    labels = batch["input_ids"].masked_fill(~real_BT, -100)
    expected = reference(**batch, labels=labels, output_router_logits=True)
    tokens = torch.stack(generate_rows(reference, batch, NUM_TOKENS))
    for experts in EXPERTS:
        model = load_model(tmp_path / "model", experts_implementation=experts)
        found = model(**batch, labels=labels, output_router_logits=True)
        difference = (found.logits - expected.logits)[real_BT].abs().max().item()
        assert difference < TOLERANCE, (experts, difference)
        for name in ("loss", "aux_loss", "loss_with_aux"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=0)
        assert torch.equal(greedy(model, batch), tokens), experts


@torch.no_grad()
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"norm_topk_prob": False}, {"norm_topk_prob": True}),
        ({"num_experts_per_tok": 1}, {"num_experts_per_tok": 2}),
    ],
)
def test_the_settings_matter_to_what_is_compared(one: dict[str, object], other: dict[str, object]) -> None:
    batch = tiny_batch()
    difference = tiny_model(**one)(**batch).logits - tiny_model(**other)(**batch).logits
    assert difference.abs().max() > 1000 * TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("experts", EXPERTS)
def test_a_row_gives_the_same_logits_alone_and_among_rows_with_and_without_images(
    experts: str, tmp_path: Path
) -> None:
    save_model(tiny_model(num_experts=8), tmp_path / "model")
    model = load_model(tmp_path / "model", experts_implementation=experts)
    batch = tiny_batch()
    together = model(**batch).logits
    ends = torch.tensor([sum(h * w for h, w in grids) for grids in MIXED_ROWS]).cumsum(0).tolist()
    images = torch.tensor([len(grids) for grids in MIXED_ROWS]).cumsum(0).tolist()
    for row, grids in enumerate(MIXED_ROWS):
        length = int(batch["attention_mask"][row].sum())
        alone = {
            key: batch[key][row : row + 1, -length:]
            for key in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        if grids:
            alone["pixel_values"] = batch["pixel_values"][ends[row - 1] if row else 0 : ends[row]]
            alone["image_grid_thw"] = batch["image_grid_thw"][images[row - 1] if row else 0 : images[row]]
        torch.testing.assert_close(model(**alone).logits[0], together[row, -length:], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_batch_without_any_image_is_the_published_one() -> None:
    model, batch = tiny_model(), tiny_batch(rows=((), (), ()))
    assert "pixel_values" not in batch
    reference = as_published(model)
    torch.testing.assert_close(model(**batch).logits, reference(**batch).logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(greedy(model, batch), torch.stack(generate_rows(reference, batch, NUM_TOKENS)))


def switch_loss(logits_LNE: Tensor, num_active: int, real_N: Tensor) -> Tensor:
    """Written from arXiv:2101.03961, eq. 4 to 6, over all layers and real tokens as one population."""
    num_experts = logits_LNE.shape[-1]
    probabilities_ME = logits_LNE[:, real_N].flatten(0, 1).softmax(dim=-1)
    chosen_MK = probabilities_ME.topk(num_active).indices
    share_E = functional.one_hot(chosen_MK, num_experts).float().sum(dim=1).mean(dim=0)
    return num_experts * (share_E * probabilities_ME.mean(dim=0)).sum()


@pytest.mark.parametrize(("experts", "active"), [(1, 1), (2, 1), (4, 2), (4, 4), (8, 3)])
def test_the_balancing_loss_and_its_gradient_follow_the_paper(experts: int, active: int) -> None:
    generator = torch.Generator().manual_seed(experts)
    logits_LNE = torch.randn((3, 20, experts), generator=generator).requires_grad_()
    mask_BT = torch.tensor([[0] * 4 + [1] * 6, [1] * 10])
    found = load_balancing_loss(tuple(logits_LNE), active, mask_BT)
    expected = switch_loss(logits_LNE, active, mask_BT.flatten().bool())
    torch.testing.assert_close(found, expected)
    (found_grad,), (expected_grad,) = (torch.autograd.grad(loss, logits_LNE) for loss in (found, expected))
    torch.testing.assert_close(found_grad, expected_grad)
    assert not found_grad[:, :4].any()
    even = load_balancing_loss((torch.zeros(40, experts),), active)
    assert even.item() == pytest.approx(active)
