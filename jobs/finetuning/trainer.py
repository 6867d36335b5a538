"""The driver's side of a training: Ray Train is started, watched and asked what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.finetuning.tally import tallied
from sonoloop.jobs.finetuning.task import FOLDER, TrainingTask, train_worker
from sonoloop.platform.errors import ServiceError, SonoloopError

POLL_VARIABLE = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
"""`train.report` waits for this poll: at 0.2 s, 20 steps went from 37 s to 3.9 s (Ray 2.60, 2 cores)."""


def fit(task_of: Callable[[Any], TrainingTask], *, num_steps: int) -> Checkpoint:
    """Train until the last step, from the run's newest checkpoint where there is one.

    Args:
        task_of: Makes the task with the handle of a tally.
        num_steps: Of the whole training.

    Returns:
        The last checkpoint.

    Raises:
        SonoloopError: why the workers stopped.
        ServiceError: workers were lost more often than ``max_failures``.
    """
    os.environ.setdefault(POLL_VARIABLE, "0.2")
    with tallied(num_steps) as tally:
        task = task_of(tally)
        failed: TrainingFailedError | None = None
        checkpoint: Checkpoint | None = None
        try:
            checkpoint = _trainer(task).fit().checkpoint
        except TrainingFailedError as err:
            failed = err
        reason: SonoloopError | None = ray.get(tally.reason.remote())
    if reason is not None:
        raise reason
    if failed is not None:
        raise ServiceError(
            f"training failed, the champion is untouched: {_cause(failed)}; the same command goes on from "
            "the last checkpoint"
        ) from failed
    assert checkpoint is not None, "the last step always leaves a checkpoint"
    return checkpoint


def _trainer(task: TrainingTask) -> TorchTrainer:
    config = task.config
    return TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=_scaling(config),
        run_config=RunConfig(
            name=FOLDER,
            storage_path=task.workspace.path("runs", task.run_id),
            storage_filesystem=task.workspace.fs,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=config.num_checkpoints),
        ),
    )


def _scaling(config: FinetuneConfig) -> ScalingConfig:
    fewest = config.min_workers
    return ScalingConfig(
        num_workers=config.num_workers if fewest is None else (fewest, config.num_workers),
        use_gpu=config.use_gpu,
        resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
    )


def _cause(err: BaseException) -> str:
    while err.__cause__ is not None:
        err = err.__cause__
    return f"{type(err).__name__}: {str(err).splitlines()[-1] if str(err) else ''}"
