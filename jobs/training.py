"""What one training worker does: Ray Train around it, DeepSpeed inside it.

Every rank takes the same number of steps: an epoch's order is shuffled with the same seed everywhere and cut
into equal shards, the last ones padded from the beginning.
"""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ray import train
from ray.train import Checkpoint

from sonoloop.jobs.config import FinetuneConfig
from sonoloop.jobs.snapshot import SnapshotRow, read_snapshot
from sonoloop.model.checkpoint import copy_companions, load_model, save_model
from sonoloop.model.chosen import boxes_among_chosen, choose_images
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.expert_usage import ExpertUsage, expert_usage
from sonoloop.model.frames import decode_frame
from sonoloop.model.prepared import CaseInput, prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.supervised import SupervisedExample, Target, collate, supervised_example
from sonoloop.platform import registry
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.tables import read_cases
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)
MODEL_FOLDER = "model"


@dataclass(frozen=True)
class TrainingTask:
    """Everything a worker needs; picklable."""

    workspace: Store
    base: str
    snapshot: str
    config: FinetuneConfig
    reading: EngineConfig
    """How drafting reads and words a case; training does the same."""
    counter: Any


def train_worker(task: dict[str, TrainingTask]) -> None:
    """Train one rank, from the last checkpoint where there is one; rank 0 leaves the finished model."""
    job = task["task"]
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    folder = registry.fetch(job.workspace, job.base)
    processor = EchoVLMProcessor.from_folder(folder, max_pixels=job.reading.max_pixels)
    rows = read_snapshot(job.workspace, job.snapshot, "train")
    examples = load_examples(job.workspace, processor, rows, job.reading)
    config = job.config
    steps = math.ceil(len(examples) / (world * config.batch_size))
    model = load_model(folder, dtype=torch.float32)
    engine = _engine(model, config, total_steps=steps * config.epochs)
    for epoch in range(_restore(engine), config.epochs):
        pad_id = processor.tokenizer.pad_token_id
        with expert_usage(engine) as usage:
            losses = _epoch(engine, job, examples, epoch, (rank, world), pad_id=pad_id)
        usage.reduce()
        if rank == 0:
            warn_of_collapse(usage, epoch)
        metrics = {"epoch": epoch, **losses, **usage_metrics(usage)}
        _report(engine, folder, metrics, last=epoch + 1 == config.epochs)


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


def load_examples(
    workspace: Store, processor: EchoVLMProcessor, rows: list[SnapshotRow], reading: EngineConfig
) -> list[SupervisedExample]:
    """Reviews as training examples, in the order of the rows.

    Raises:
        RejectedError: a case's images cannot be prepared; a snapshot with gaps is not trained on.
    """
    cases = {case.case_id: case for case in read_cases(workspace)}
    return [_example(workspace, processor, row, cases[row.case_id], reading) for row in rows]


def _example(
    workspace: Store, processor: EchoVLMProcessor, row: SnapshotRow, case: CaseRecord, reading: EngineConfig
) -> SupervisedExample:
    chosen = choose_images(len(case.images), reading.max_images)
    pixels = tuple(decode_frame(workspace.read_bytes(case.images[index].image_key)) for index in chosen)
    entities = row.parsed_entities()
    assert entities is not None, "a snapshot holds reviews with entities only"
    target = Target(row.findings, row.impression, entities, boxes_among_chosen(row.boxes, chosen))
    inputs = CaseInput(case.case_id, pixels, case.organ_hint, image_indices=chosen)
    prepared = prepare(processor, inputs, max_images=None)  # the choice is made
    return supervised_example(processor, prepared, target, reading.language)


def shard(num_examples: int, epoch: int, rank: int, world: int, *, seed: int) -> list[int]:
    """This rank's example indices for one epoch: equal lengths on all ranks, every example at least once."""
    order = list(range(num_examples))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    padded = order + order[: -num_examples % world]
    return padded[rank::world]


def _engine(model: torch.nn.Module, config: FinetuneConfig, *, total_steps: int) -> Any:
    import deepspeed  # probes the accelerator and prints when imported: in workers only

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    warmup = max(1, round(total_steps * config.warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    settings = {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.use_gpu},
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
        config=settings,
        dist_init_required=False,
    )
    return engine


def _epoch(
    engine: Any,
    job: TrainingTask,
    examples: list[SupervisedExample],
    epoch: int,
    place: tuple[int, int],
    *,
    pad_id: int,
) -> dict[str, float]:
    """Train one epoch; returns this rank's mean ``loss`` and ``aux_loss`` over its steps."""
    mine = shard(len(examples), epoch, *place, seed=job.config.seed)
    engine.train()
    total, aux_total = 0.0, 0.0
    starts = range(0, len(mine), job.config.batch_size)
    for start in starts:
        chosen = mine[start : start + job.config.batch_size]
        batch = collate([examples[index] for index in chosen], pad_id)
        inputs = {name: value.to(engine.device) for name, value in batch.items()}
        output = engine(**inputs, output_router_logits=True)  # without them there is no auxiliary loss
        if not torch.isfinite(output.loss):
            raise FloatingPointError(
                f"the loss is {output.loss.item()} in epoch {epoch}; lower learning_rate"
            )
        engine.backward(output.loss_with_aux)
        engine.step()
        total += output.loss.item()
        aux_total += output.aux_loss.item()
        if place[0] == 0:
            job.counter.add.remote(1, 0)
    return {"loss": total / len(starts), "aux_loss": aux_total / len(starts)}


def _restore(engine: Any) -> int:
    """Load the last checkpoint into the engine; returns the epoch to begin with."""
    checkpoint = train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        _, state = engine.load_checkpoint(folder)
    return int(state["epoch"]) + 1


def _report(engine: Any, base: Path, metrics: dict[str, float], *, last: bool) -> None:
    """Checkpoint every rank's share; with the last epoch, rank 0 adds the model in its published layout."""
    from deepspeed import zero

    with TemporaryDirectory() as name:
        folder = Path(name)
        engine.save_checkpoint(name, client_state={"epoch": metrics["epoch"]})
        if last:
            with zero.GatheredParameters(list(engine.module.parameters()), modifier_rank=0):
                if train.get_context().get_world_rank() == 0:
                    save_model(engine.module, folder / MODEL_FOLDER)
                    copy_companions(base, folder / MODEL_FOLDER)
        train.report(metrics, checkpoint=Checkpoint.from_directory(name))
