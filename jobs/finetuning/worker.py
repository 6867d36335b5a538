"""What one training worker does: Ray Train around it, DeepSpeed inside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.fs as pafs
from ray import train
from ray.train import Checkpoint

from sonoloop.jobs.annotating.patience import Patience
from sonoloop.jobs.finetuning import checkpoints
from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.finetuning.curve import StepRecord, write_curve
from sonoloop.jobs.finetuning.data import Reader, prepared_cases, steps_of
from sonoloop.jobs.finetuning.inputs import read_inputs
from sonoloop.jobs.finetuning.loop import Trainer
from sonoloop.jobs.finetuning.opening import open_training
from sonoloop.jobs.finetuning.plan import Plan
from sonoloop.jobs.finetuning.task import FOLDER, TrainingTask
from sonoloop.jobs.snapshot import ConversationRow, SnapshotRow, read_conversations, read_snapshot
from sonoloop.model.expert_usage import ExpertUsage, expert_usage
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.platform import registry
from sonoloop.platform.errors import StorageError, UnreachableError
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)


def train_rank(job: TrainingTask) -> None:
    """Train one rank of a task, from the last checkpoint where there is one."""
    patiently = Patience(job.config.storage_patience_s)
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    folder = patiently(registry.fetch, job.workspace, job.base)
    cases = patiently(read_inputs, job.workspace, job.run_id)
    plan = Plan([case.num_tokens for case in cases], [case.is_new for case in cases], job.config)
    with _last_checkpoint() as last:
        engine, first, curve = open_training(folder, job.config, last, accumulated=plan.accumulated(world))
    rows = patiently(_rows, job)
    processor = EchoVLMProcessor.from_folder(folder, max_pixels=job.reading.max_pixels)
    preparer = (job.workspace, job.run_id, job.base, job.reading.max_pixels, job.config.storage_patience_s)
    place = {"first": first, "rank": rank, "world": world}
    prepared = prepared_cases(plan, job.config, *preparer, **place)
    trainer = Trainer(engine, job.config, plan)
    with expert_usage(engine) as usage:
        for number, batches in steps_of(
            plan, prepared, Reader(processor, rows, job.config, job.reading), **place
        ):
            record = trainer.step(number, batches)
            if plan.ends_epoch(number):
                record = record.model_copy(update=_of_epoch(usage, record.epoch, rank))
            curve.append(record)
            if rank == 0:
                job.tally.took.remote(record)
            if plan.ends_epoch(number) or _is_due(number, job.config):
                _checkpoint(job, engine, curve, plan)


def _rows(job: TrainingTask) -> dict[str, SnapshotRow | ConversationRow]:
    reviews = read_snapshot(job.workspace, job.snapshot, "train")
    imported = read_conversations(job.workspace, job.snapshot, "train")
    return {row.case_id: row for row in reviews} | {row.conversation_id: row for row in imported}


def _is_due(number: int, config: FinetuneConfig) -> bool:
    return config.checkpoint_every_steps is not None and (number + 1) % config.checkpoint_every_steps == 0


@contextmanager
def _last_checkpoint() -> Iterator[Path | None]:
    found = train.get_checkpoint()
    if found is None:
        yield None
        return
    with found.as_directory() as folder:
        yield Path(folder)


def _of_epoch(usage: ExpertUsage, epoch: int, rank: int) -> dict[str, float]:
    """What an epoch tells of the experts; a collapse is logged, and counting begins anew."""
    usage.reduce()
    if rank == 0:
        warn_of_collapse(usage, epoch)
    metrics = usage_metrics(usage)
    usage.reset()
    return metrics


def usage_metrics(usage: ExpertUsage) -> dict[str, float]:
    """What an epoch reports of the experts: the worst layer's figures, 1 is even.

    ``least_used_expert_share`` is the smallest share of an even share, 0 for an expert that got nothing;
    ``expert_balance`` the smallest normalised entropy.
    """
    return {
        "least_used_expert_share": usage.least_used().min().item(),
        "expert_balance": usage.balance().min().item(),
    }


def warn_of_collapse(usage: ExpertUsage, epoch: int) -> None:
    """Log every expert that almost no token chose in an epoch."""
    for found in usage.collapsed():
        logger.warning(
            "epoch %d: expert %d of layer %d got %.2f %% of an even share of the tokens; "
            "raise router_aux_loss_coef or lower learning_rate",
            epoch,
            found.expert,
            found.layer,
            100 * found.share,
        )


def _checkpoint(job: TrainingTask, engine: Any, curve: list[StepRecord], plan: Plan) -> None:
    """Keep what a restart needs; every rank writes and uploads its share of it.

    Raises:
        StorageError: a disk or the store is full; the checkpoint before stays.
        DivergedError: a weight is no number, on every rank alike; so does it.
    """
    num_steps = len(curve)
    last = num_steps == plan.num_steps

    def upload(local: Checkpoint, name: str) -> Checkpoint:
        target = job.workspace.path("runs", job.run_id, FOLDER, name)
        try:
            Patience(job.config.storage_patience_s)(_copied, job.workspace, local.path, target)
        except StorageError:
            with suppress(StorageError):  # a part of a checkpoint is none, and its room may be what lacks
                job.workspace.remove_folder("runs", job.run_id, FOLDER, name)
            raise
        return Checkpoint(target, job.workspace.fs)

    try:
        with TemporaryDirectory(prefix="sonoloop-checkpoint-") as name:
            with storage_errors(f"the folder of temporary files, {Path(name).parent}"):
                checkpoints.save(engine, Path(name), curve, num_steps=num_steps, last=last)
            if train.get_context().get_world_rank() == 0:
                write_curve(job.workspace, job.run_id, curve)
            local = Checkpoint.from_directory(name)
            train.report({"steps": num_steps}, checkpoint=local, checkpoint_upload_fn=upload)
    except UnreachableError:
        raise
    except StorageError as err:
        raise StorageError(
            f"the checkpoint at step {num_steps} of {plan.num_steps} cannot be written: {err}; make room or "
            "correct the place, and the same command goes on from the checkpoint before, which is kept"
        ) from err


def _copied(workspace: Store, source: str, target: str) -> None:
    with storage_errors(workspace.uri):
        workspace.fs.create_dir(target)
        pafs.copy_files(source, target, pafs.LocalFileSystem(), workspace.fs)
