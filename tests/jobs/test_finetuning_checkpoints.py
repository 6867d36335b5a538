"""What no checkpoint may hold. That one is gone on with is shown where ranks train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from sonoloop.jobs.finetuning import checkpoints
from sonoloop.jobs.finetuning.loop import DivergedError


@pytest.fixture
def lone_rank(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_never_written_though_every_loss_was_one(
    tmp_path: Path, lone_rank: None, bad: float
) -> None:
    """The gradient of a training's last step may overflow, and no loss follows that would tell."""
    model = torch.nn.Linear(2, 2)
    engine = SimpleNamespace(
        module=SimpleNamespace(model=model),
        optimizer=torch.optim.AdamW(model.parameters()),
        zero_optimization_stage=lambda: 0,
    )
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
