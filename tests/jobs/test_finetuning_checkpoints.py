"""What no checkpoint may hold, and what is published of one.

That one is gone on with is shown where ranks train.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed

from sonoloop.jobs.finetuning import checkpoints
from sonoloop.jobs.finetuning.publishing import write_trained
from sonoloop.jobs.finetuning.task import DivergedError
from sonoloop.model.checkpoint import load_model
from sonoloop.model.training.recipes import RecipeConfig, RecipeName
from sonoloop.model.training.trainable import make_trainable

TINY = Path(__file__).parents[1] / "fixtures" / "echovlm-tiny"


@pytest.fixture
def lone_rank(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def engine_of(model: torch.nn.Module) -> Any:
    """What DeepSpeed's shows of itself, at stage 0."""
    return SimpleNamespace(
        module=SimpleNamespace(model=model),
        optimizer=torch.optim.AdamW(model.parameters()),
        zero_optimization_stage=lambda: 0,
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_never_written_though_every_loss_was_one(
    tmp_path: Path, lone_rank: None, bad: float
) -> None:
    """The gradient of a training's last step may overflow, and no loss follows that would tell."""
    model = torch.nn.Linear(2, 2)
    engine = engine_of(model)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    checkpoints.save(engine, folder, [], num_steps=6, last=True)
    assert (folder / checkpoints.POSITION_FILE).is_file()
    with torch.no_grad():
        model.bias[1] = bad
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DivergedError, match=r"bias holds weights that are no numbers after step 7; lower"):
        checkpoints.save(engine, other, [], num_steps=7, last=True)
    assert not (other / checkpoints.POSITION_FILE).exists()


@pytest.mark.parametrize("name", ["corrections", "full"])
def test_a_share_of_the_base_in_the_published_weights_is_a_point_between_both(
    tmp_path: Path, lone_rank: None, name: RecipeName
) -> None:
    """Adapters too: what they add to a matrix is scaled, though one half of them began at random."""
    recipe = RecipeConfig.model_validate({"name": name, "base_share": 0.25})
    trained = load_model(TINY, dtype=torch.float32)
    make_trainable(trained, recipe)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.manual_seed(1)), alpha=0.1)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    checkpoints.save(engine_of(trained), checkpoint, [], num_steps=1, last=True)

    def published(base_share: float) -> dict[str, torch.Tensor]:
        target = tmp_path / f"published-{base_share}"
        write_trained(TINY, checkpoint, recipe.model_copy(update={"base_share": base_share}), target)
        return load_model(target, dtype=torch.float32).state_dict()

    base, whole, mixed = load_model(TINY, dtype=torch.float32).state_dict(), published(0), published(0.25)
    assert any(not torch.equal(base[name], whole[name]) for name in base if "q_proj" in name)
    for parameter, value in mixed.items():
        torch.testing.assert_close(value, 0.25 * base[parameter] + 0.75 * whole[parameter], msg=parameter)
