"""From a base, and a checkpoint where there is one, to an engine that trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sonoloop.jobs.finetuning import checkpoints
from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.finetuning.curve import StepRecord
from sonoloop.jobs.finetuning.engine import open_engine, settings
from sonoloop.jobs.finetuning.sharding import load_sharded
from sonoloop.model.checkpoint import load_model
from sonoloop.model.training.objective import Objective
from sonoloop.model.training.schedule import checkpoint_activations
from sonoloop.model.training.trainable import make_trainable, parameter_groups


def open_training(
    folder: Path, config: FinetuneConfig, last: Path | None, *, accumulated: int
) -> tuple[Any, int, list[StepRecord]]:
    """The engine as a checkpoint left it, the first step that is left, and the curve until there.

    Args:
        folder: The base, on this rank's disk.
        config: The training's.
        last: The checkpoint; None begins with the base.
        accumulated: Micro-batches of a step on each rank.

    Raises:
        CheckpointError: the base is broken, or the checkpoint holds other parameters than are trained now.
    """
    low = config.computes_in_bf16 and config.zero_stage  # at stage 0 the weights stay float32
    dtype = torch.bfloat16 if low else torch.float32
    if config.zero_stage == 3:
        model = load_sharded(folder, settings(config, accumulated), dtype=dtype)
    else:
        model = load_model(folder, dtype=dtype)
    make_trainable(model, config.recipe)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    groups = parameter_groups(
        model, config.recipe, learning_rate=config.learning_rate, weight_decay=config.weight_decay
    )
    if last is not None:
        checkpoints.load_weights(model, last)
    engine = open_engine(Objective(model, over_ranks=False), config, groups, accumulated=accumulated)
    if last is None:
        return engine, 0, []
    first, curve = checkpoints.read_position(last)
    checkpoints.restore(engine, last, num_steps=first)
    return engine, first, curve
