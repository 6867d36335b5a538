"""Trainings by ranks that are plain processes, without Ray around them.

All ranks of a start do its trainings one after the other, on a tiny model and examples that each of
them makes by itself.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import torch
from pydantic import BaseModel, TypeAdapter
from tests.model.tiny import tiny_batch, tiny_model
from torch import distributed

from sonoloop.jobs.finetuning import checkpoints
from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.finetuning.curve import StepRecord, from_lines, to_lines
from sonoloop.jobs.finetuning.loop import Batch, Trainer
from sonoloop.jobs.finetuning.opening import open_training
from sonoloop.jobs.finetuning.plan import Plan
from sonoloop.model.checkpoint import save_model
from sonoloop.model.patches import Patches
from sonoloop.model.supervised import IGNORED, SupervisedExample, collate

CONTEXT = multiprocessing.get_context("forkserver")
NUM_EXAMPLES = 10
GRIDS = ((2, 2), (2, 4), (4, 4))


class Training(BaseModel):
    """One training: the settings, where it goes on from, and where it stops and what it leaves there."""

    name: str
    config: FinetuneConfig
    load: str | None = None
    stop: int | None = None
    save: str | None = None


TRAININGS = TypeAdapter(list[Training])


def run_ranks(folder: Path, world: int, trainings: list[Training]) -> dict[str, list[StepRecord]]:
    """Do these trainings on so many ranks; the curve of each."""
    folder.mkdir(exist_ok=True)
    write_base(folder / "base")
    CONTEXT.set_forkserver_preload(["tests.jobs.training_ranks", "deepspeed"])  # imported once for all ranks
    ranks = [
        CONTEXT.Process(target=_rank, args=(folder, rank, world, TRAININGS.dump_json(trainings)))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for rank, process in enumerate(ranks):
        process.join(240)
        assert process.exitcode == 0, (folder / f"rank-{rank}.txt").read_text()[-3000:]
    return {
        training.name: from_lines((folder / f"{training.name}.jsonl").read_bytes()) for training in trainings
    }


def example(number: int) -> SupervisedExample:
    """One or two small images and a few words, half of them answered."""
    grids = [GRIDS[(number + place) % len(GRIDS)] for place in range(1 + number % 2)]
    batch = tiny_batch([grids], seed=number)
    labels = batch["input_ids"][0].clone()
    labels[: len(labels) - 3 - number % 3] = IGNORED
    return SupervisedExample(
        input_ids=batch["input_ids"][0],
        labels=labels,
        mm_token_type_ids=batch["mm_token_type_ids"][0],
        patches=Patches(batch["pixel_values"].numpy()),
        image_grid_thw=batch["image_grid_thw"],
        weight=1.0 + number % 3,
    )


def train(training: Training, base: Path, rank: int, world: int) -> list[StepRecord]:
    """Take the steps of a training from where it goes on to where it stops."""
    config = training.config
    examples = [example(number) for number in range(NUM_EXAMPLES)]
    plan = Plan([len(one.input_ids) for one in examples], [True] * NUM_EXAMPLES, config)
    last = None if training.load is None else Path(training.load)
    engine, first, curve = open_training(base, config, last, accumulated=plan.accumulated(world))
    trainer = Trainer(engine, config, plan)
    for number in range(first, training.stop or plan.num_steps):
        batches = [
            Batch(collate([examples[index] for index in planned.examples], 0), planned.counts)
            for planned in plan.of_rank(number, rank, world)
        ]
        curve.append(trainer.step(number, batches))
    if training.save is not None:
        folder = Path(training.save)
        folder.mkdir(exist_ok=True)
        checkpoints.save(engine, folder, curve, num_steps=len(curve), last=len(curve) == plan.num_steps)
    engine.destroy()
    return curve


def write_base(folder: Path) -> None:
    """A tiny model with routers that send all tokens to two of the experts, published."""
    model = tiny_model(num_experts=6, num_experts_per_tok=2, output_router_logits=True)
    for layer in model.model.language_model.layers:
        layer.moe.gate.weight.data[2:] *= 0.05
    save_model(model, folder)


def _rank(folder: Path, rank: int, world: int, trainings: bytes) -> None:
    said = (folder / f"rank-{rank}.txt").open("w")
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    for training in TRAININGS.validate_json(trainings):
        curve = train(training, folder / "base", rank, world)
        if rank == 0:
            (folder / f"{training.name}.jsonl").write_bytes(to_lines(curve))
    distributed.destroy_process_group()
