"""The loss, its gradients, and what they depend on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny import tiny_batch, tiny_model
from torch import Tensor, distributed, multiprocessing

from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.training.objective import Objective
from sonoloop.model.training.recipes import recipe
from sonoloop.model.training.schedule import checkpoint_activations, learning_rate_factor
from sonoloop.model.training.trainable import make_trainable


def supervised_batch(
    rows: slice = slice(None), weights: tuple[float, ...] = (1, 1, 1, 1)
) -> dict[str, Tensor]:
    """Rows of the tiny batch that all have an image, as a batch of their own."""
    grids = (((2, 6), (10, 4)), ((4, 4),), ((2, 2),), ((6, 6), (2, 2), (4, 8)))
    batch = tiny_batch(grids[rows])
    # the same words whatever the rows: drawn row by row
    for place, row in enumerate(range(4)[rows]):
        generator = torch.Generator().manual_seed(row)
        is_word = (batch["attention_mask"][place] == 1) & (batch["input_ids"][place] < 300)
        batch["input_ids"][place][is_word] = torch.randint(3, 300, (int(is_word.sum()),), generator=generator)
    is_word = (batch["attention_mask"] == 1) & (batch["input_ids"] < 300)
    is_word[:, 1:] &= batch["attention_mask"][:, :-1] == 1  # nothing precedes a row's first word
    batch["labels"] = batch["input_ids"].where(is_word, -100)
    batch["weights"] = torch.tensor(weights[rows], dtype=torch.float32)
    patches = [torch.Generator().manual_seed(10 + row) for row in range(4)[rows]]
    counts = [sum(height * width for height, width in grids[row]) for row in range(4)[rows]]
    pixels = [torch.randn((n, 1176), generator=seeded) for n, seeded in zip(counts, patches, strict=True)]
    batch["pixel_values"] = torch.cat(pixels)
    return batch


def gradients(model: EchoVLMForConditionalGeneration, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    Objective(model.train())(**batch)["total"].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_the_models_own_forward_pass_over_all_logits() -> None:
    model, batch = tiny_model(), supervised_batch()
    ours = gradients(model, batch)
    scalars = Objective(model)(**batch)
    del batch["weights"]
    model.zero_grad()
    output = model(**batch, output_router_logits=True)
    output.loss_with_aux.backward()
    assert scalars["total"].item() == pytest.approx(output.loss_with_aux.item(), rel=1e-6)
    assert scalars["loss"].item() == pytest.approx(output.loss.item(), rel=1e-6)
    assert scalars["aux_loss"].item() == pytest.approx(output.aux_loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_rows_weight_is_that_of_its_tokens() -> None:
    model = tiny_model()
    twice = supervised_batch(slice(0, 2), weights=(2, 1, 1, 1))
    losses, tokens = [], []
    for row in (0, 1):
        batch = supervised_batch(slice(row, row + 1))
        losses.append(Objective(model)(**batch)["loss"].item())
        tokens.append(int((batch["labels"][:, 1:] != -100).sum()))
    expected = (2 * tokens[0] * losses[0] + tokens[1] * losses[1]) / (2 * tokens[0] + tokens[1])
    assert Objective(model)(**twice)["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_an_expert_without_tokens_gets_a_zero_gradient_rather_than_none(implementation: str) -> None:
    """Under ZeRO-3 every rank has to gather and reduce every parameter in every step."""
    model = tiny_model()
    model.set_experts_implementation({"text_config": implementation})
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.post_attention_layernorm.weight.abs_()
            layer.moe.gate.weight.zero_()  # all tokens choose the same two
    found = gradients(model, supervised_batch())
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, gradient in found.items():
        if ".moe.experts." in name:
            used = [bool(matrix.abs().max() > 0) for matrix in gradient]
            assert sorted(used) == [False, False, True, True], name


@pytest.mark.parametrize("name", ["corrections", "full"])
def test_checkpointing_changes_neither_loss_nor_gradients(name: str) -> None:
    plain, saving = tiny_model(), tiny_model()
    for model in (plain, saving):
        make_trainable(model, recipe(name))  # type: ignore[arg-type]
    checkpoint_activations(saving)
    one, other = gradients(plain, supervised_batch()), gradients(saving, supervised_batch())
    assert one.keys() == other.keys()
    for key, gradient in one.items():
        torch.testing.assert_close(other[key], gradient, rtol=1e-5, atol=1e-7)


def test_reentrant_checkpointing_is_refused() -> None:
    model = tiny_model()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        Objective(model.train())(**supervised_batch())


def test_a_step_in_bfloat16_agrees_with_float32_to_its_precision() -> None:
    full, half = tiny_model(), tiny_model().bfloat16()
    batch = supervised_batch()
    one, other = Objective(full)(**batch), Objective(half)(**batch)
    assert other["loss"].dtype == torch.float32
    assert other["loss"].item() == pytest.approx(one["loss"].item(), rel=0.02)


def test_the_rate_rises_over_the_warm_up_and_falls_along_a_cosine() -> None:
    factors = [learning_rate_factor(step, total=110, warmup=10) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
    assert learning_rate_factor(0, total=5, warmup=0) == 1


def _gradients_of_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    rows = slice(0, 1) if rank == 0 else slice(1, 4)  # uneven: 1 row and 3
    found = gradients(tiny_model(), supervised_batch(rows, weights=(1, 2, 0.5, 1)))
    for gradient in found.values():
        distributed.all_reduce(gradient)
        gradient.div_(2)
    if rank == 0:
        torch.save(found, Path(folder, "gradients.pt"))
    distributed.destroy_process_group()


def test_the_mean_gradient_of_two_ranks_is_that_of_one_with_all_rows(tmp_path: Path) -> None:
    multiprocessing.spawn(_gradients_of_one_rank, (str(tmp_path),), nprocs=2)
    spread = torch.load(tmp_path / "gradients.pt")
    together = gradients(tiny_model(), supervised_batch(weights=(1, 2, 0.5, 1)))
    for name, gradient in together.items():
        torch.testing.assert_close(spread[name], gradient, rtol=1e-4, atol=1e-6)
