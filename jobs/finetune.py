"""``sonoloop finetune``: a challenger from the reviews, with Ray Train and DeepSpeed."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.progress import counted
from sonoloop.jobs.runs import ray_session, stage, start_run
from sonoloop.jobs.snapshot import Snapshot, freeze_snapshot
from sonoloop.jobs.training import MODEL_FOLDER, TrainingTask, train_worker
from sonoloop.platform import registry
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.records import content_id
from sonoloop.platform.workspace import Store

POLL_VARIABLE = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
"""`train.report` waits for this poll: at 0.2 s, 20 steps went from 37 s to 3.9 s (Ray 2.60, 2 cores)."""


class FinetuneSummary(BaseModel):
    """What was trained on what."""

    snapshot: str
    base: str
    challenger: str
    num_train: int
    num_test: int
    num_left_out: int
    steps: int
    loss: float
    seconds: float


def finetune(config: ConfigOption = "sonoloop.toml", json: JsonOption = False) -> None:
    """Train a challenger from the reviews with Ray Train and DeepSpeed."""
    show(run_finetune(load_config(config)), title="finetune", as_json=json)


def run_finetune(config: Config) -> FinetuneSummary:
    """Freeze a snapshot, train the champion on it, publish the result as challenger.

    Raises:
        NothingToDoError: no review to learn from.
        ServiceError: training failed; the champion is untouched.
    """
    workspace = config.open_workspace()
    aliases = registry.read_aliases(workspace, config.model.name)
    base = registry.resolve(workspace, config.model.name)
    snapshot = freeze_snapshot(workspace, test_share=config.finetune.test_share)
    key = content_id(base, snapshot.name, config.finetune.model_dump_json(), length=12)
    run_id = f"finetune-{key}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    run = start_run(workspace, "finetune", run_id=run_id, key=key, config=config)
    with ray_session(config.ray), stage("finetune") as counts:
        loss, model_folder = _train(config, workspace, base, snapshot, run_id)
        lineage = {"base": base, "snapshot": snapshot.name, "run": run_id}
        version = registry.publish(workspace, model_folder, config.model.name, lineage=lineage)
        counts.update(cases=snapshot.num_train)
    registry.set_aliases(workspace, config.model.name, {"challenger": version}, expected=aliases)
    done = run.finished(workspace, {"train": snapshot.num_train, "test": snapshot.num_test})
    return FinetuneSummary(
        snapshot=snapshot.name,
        base=base,
        challenger=version,
        num_train=snapshot.num_train,
        num_test=snapshot.num_test,
        num_left_out=snapshot.num_left_out,
        steps=_num_steps(config, snapshot),
        loss=loss,
        seconds=done.seconds or 0.0,
    )


def _num_steps(config: Config, snapshot: Snapshot) -> int:
    job = config.finetune
    return math.ceil(snapshot.num_train / (job.num_workers * job.batch_size)) * job.epochs


def _train(
    config: Config, workspace: Store, base: str, snapshot: Snapshot, run_id: str
) -> tuple[float, Path]:
    job = config.finetune
    os.environ.setdefault(POLL_VARIABLE, "0.2")
    with counted("finetune steps", _num_steps(config, snapshot)) as counter:
        task = TrainingTask(workspace, base, snapshot.name, job, config.annotate.engine, counter)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"task": task},
            torch_config=TorchConfig(backend="nccl" if job.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=job.num_workers,
                use_gpu=job.use_gpu,
                resources_per_worker={"CPU": job.cpus_per_worker, **({"GPU": 1} if job.use_gpu else {})},
            ),
            run_config=RunConfig(
                name="train",
                storage_path=workspace.path("runs", run_id),
                storage_filesystem=workspace.fs,
                failure_config=FailureConfig(max_failures=job.max_failures),
            ),
        )
        try:
            result = trainer.fit()
        except TrainingFailedError as err:
            raise ServiceError(f"training failed, the champion is untouched: {_cause(err)}") from err
    assert result.checkpoint is not None, "the last epoch always reports a checkpoint"
    assert result.metrics is not None, "the last epoch always reports its loss"
    return float(result.metrics["loss"]), Path(result.checkpoint.to_directory(), MODEL_FOLDER)


def _cause(err: BaseException) -> str:
    while err.__cause__ is not None:
        err = err.__cause__
    return f"{type(err).__name__}: {str(err).splitlines()[-1] if str(err) else ''}"
