"""Loss equality: one worker or two, any ZeRO stage, stopped and gone on with as another; a stored curve.

Each number of ranks is one start of processes that do all their trainings, without Ray; see `training_ranks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.jobs.training_ranks import Training, run_ranks

from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.finetuning.curve import StepRecord

TOLERANCE = 1e-5
"""Of a loss between 3 and 7, absolute: float32 sums in another order (largest seen: 1e-6)."""
BF16_TOLERANCE = 0.05
"""bfloat16 keeps 8 bits; the largest difference seen against float32 is 0.02, over all steps 0.045."""
STOP = 4
STORED = [6.651141, 6.074797, 6.419415, 4.345932, 5.410314, 4.439154, 3.324094, 4.377911, 4.076332]
"""The losses of `tests.model.tiny`'s seed-0 model with all parameters trained (torch 2.13 on a CPU)."""
STORED_CORRECTIONS = [6.651141, 6.170808, 6.475850, 4.327891]
Curves = dict[str, list[StepRecord]]


def training(name: str, **settings: Any) -> Training:
    run = {key: settings.pop(key) for key in ("load", "stop", "save") if key in settings}
    given = {"recipe": "full", "epochs": 3, "batch_size": 4, "micro_batch_size": 1, "learning_rate": 1e-3}
    return Training(name=name, config=FinetuneConfig(**{**given, **settings}), **run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder: Path) -> Curves:
    """Trainings by two ranks; some stop and leave a checkpoint."""
    kept = {stage: str(folder / f"kept-{stage}") for stage in ("0", "1", "3", "offloaded", "bf16", "adapted")}
    return run_ranks(
        folder / "two",
        2,
        [
            training("whole", zero_stage=1),
            training("zero-0", zero_stage=0, stop=STOP, save=kept["0"]),
            training("zero-1", zero_stage=1, stop=STOP, save=kept["1"]),
            training("zero-2", zero_stage=2, stop=STOP),
            training("zero-3", zero_stage=3, stop=STOP, save=kept["3"]),
            training("zero-2-offload", zero_stage=2, offload="optimizer", stop=STOP),
            training("zero-3-offload", zero_stage=3, offload="parameters", stop=STOP, save=kept["offloaded"]),
            training("zero-3-checkpointing", zero_stage=3, gradient_checkpointing=True, stop=STOP),
            training("adapted", recipe="corrections", stop=STOP, save=kept["adapted"]),
            training("adapted-3", recipe="corrections", zero_stage=3, stop=STOP),
            training("bf16-0", bf16=True, zero_stage=0, stop=STOP),
            training("bf16-1", bf16=True, zero_stage=1, stop=STOP, save=kept["bf16"]),
            training("bf16-3", bf16=True, zero_stage=3, stop=STOP),
            training("bf16-adapted", bf16=True, zero_stage=3, recipe="corrections", stop=2),
        ],
    )


@pytest.fixture(scope="module")
def one(folder: Path, two: Curves) -> Curves:
    """Trainings by one rank, most of which go on from what two ranks left."""
    return run_ranks(
        folder / "one",
        1,
        [
            training("alone", zero_stage=0, stop=STOP, save=str(folder / "kept-alone")),
            training("from-0", zero_stage=1, load=str(folder / "kept-0")),
            training("from-1", zero_stage=0, load=str(folder / "kept-1")),
            training("from-3", zero_stage=3, load=str(folder / "kept-3")),
            training("from-offloaded", zero_stage=2, load=str(folder / "kept-offloaded")),
            training("from-bf16", zero_stage=1, bf16=True, load=str(folder / "kept-bf16")),
            training("from-adapted", recipe="corrections", zero_stage=3, load=str(folder / "kept-adapted")),
        ],
    )


@pytest.fixture(scope="module")
def two_again(folder: Path, one: Curves) -> Curves:
    """Trainings by two ranks that go on from what one rank, and two, left."""
    return run_ranks(
        folder / "again",
        2,
        [
            training("from-alone", zero_stage=3, load=str(folder / "kept-alone")),
            training("from-two", zero_stage=1, load=str(folder / "kept-1")),
        ],
    )


def losses(curve: list[StepRecord]) -> list[float]:
    return [record.loss for record in curve]


def test_the_curve_is_the_stored_one(two: Curves) -> None:
    assert losses(two["whole"]) == pytest.approx(STORED, abs=1e-4)
    assert losses(two["adapted"]) == pytest.approx(STORED_CORRECTIONS, abs=1e-4)


@pytest.mark.parametrize(
    "name",
    ["zero-0", "zero-1", "zero-2", "zero-3", "zero-2-offload", "zero-3-offload", "zero-3-checkpointing"],
)
def test_two_workers_have_the_loss_of_one_at_every_stage(two: Curves, one: Curves, name: str) -> None:
    assert losses(two[name]) == pytest.approx(losses(one["alone"]), abs=TOLERANCE)
    assert [r.aux_loss for r in two[name]] == pytest.approx([r.aux_loss for r in one["alone"]], abs=TOLERANCE)
    assert [r.num_tokens for r in two[name]] == [r.num_tokens for r in one["alone"]]


def test_adapters_have_the_same_loss_when_weights_are_cut(two: Curves) -> None:
    assert losses(two["adapted-3"]) == pytest.approx(losses(two["adapted"]), abs=TOLERANCE)


@pytest.mark.parametrize("name", ["bf16-0", "bf16-1", "bf16-3"])
def test_bfloat16_stays_near(two: Curves, name: str) -> None:
    assert losses(two[name]) == pytest.approx(losses(two["whole"])[:STOP], abs=BF16_TOLERANCE)
    assert losses(two[name]) != pytest.approx(losses(two["whole"])[:STOP], abs=1e-4)


def test_adapters_stay_near_in_bfloat16(two: Curves) -> None:
    assert losses(two["bf16-adapted"]) == pytest.approx(STORED_CORRECTIONS[:2], abs=BF16_TOLERANCE)


@pytest.mark.parametrize("name", ["from-0", "from-1", "from-3", "from-offloaded"])
def test_one_worker_goes_on_with_what_two_left_at_another_stage(two: Curves, one: Curves, name: str) -> None:
    assert [record.step for record in one[name]] == list(range(len(STORED)))
    assert [record.workers for record in one[name]] == [2] * STOP + [1] * (len(STORED) - STOP)
    assert losses(one[name]) == pytest.approx(losses(two["whole"]), abs=TOLERANCE)


@pytest.mark.parametrize("name", ["from-alone", "from-two"])
def test_two_workers_go_on_with_what_one_or_two_left(two: Curves, two_again: Curves, name: str) -> None:
    assert losses(two_again[name]) == pytest.approx(losses(two["whole"]), abs=TOLERANCE)


def test_a_training_in_bfloat16_and_one_of_adapters_go_on_too(two: Curves, one: Curves) -> None:
    assert losses(one["from-bf16"])[:STOP] == losses(two["bf16-1"])
    assert losses(one["from-bf16"])[STOP:] == pytest.approx(STORED[STOP:], abs=2 * BF16_TOLERANCE)
    assert len(one["from-adapted"]) == len(STORED)
    assert one["from-adapted"][STOP].loss == pytest.approx(4.847968, abs=1e-4)
