"""Examples on their way to a worker: fetched and cut into patches on CPU actors, through Ray Data, in order.

Each worker reads its own share of the plan as one data set over all steps that are left, so nothing drains
between epochs, and what a worker gets depends on the plan alone. Why not one data set that is split among the
workers: docs/decisions/0018-training-data.md.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.exceptions import RayTaskError

from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.finetuning.loop import Batch
from sonoloop.jobs.finetuning.plan import Plan, Planned
from sonoloop.jobs.finetuning.preparing import Preparer
from sonoloop.jobs.snapshot import ConversationRow, SnapshotRow
from sonoloop.model.chosen import boxes_among_chosen
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.prepared import PreparedCase
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.supervised import SupervisedExample, Target, collate
from sonoloop.model.training.tasks import prepared_conversation, task_example, task_of
from sonoloop.platform.errors import SonoloopError

T = TypeVar("T")

BLOCKS = 1000
"""Of a worker's data set, until they hold `ROWS_PER_BLOCK` micro-batches: each costs the executor some ms."""
ROWS_PER_BLOCK = 16


@dataclass(frozen=True)
class Reader:
    """Words the cases for the model.

    Attributes:
        processor: Of the base model.
        rows: Reviews and imported conversations, by the id of their case.
        config: The training's.
        reading: How drafting reads and words a case; training does the same.
    """

    processor: EchoVLMProcessor
    rows: Mapping[str, SnapshotRow | ConversationRow]
    config: FinetuneConfig
    reading: EngineConfig

    def batch(self, planned: Planned, prepared: Sequence[PreparedCase], epoch: int) -> Batch:
        """A micro-batch as the model takes it."""
        examples = [self._example(case, epoch) for case in prepared]
        return Batch(collate(examples, self.processor.tokenizer.pad_token_id), planned.counts)

    def _example(self, case: PreparedCase, epoch: int) -> SupervisedExample:
        row, seed = self.rows[case.case_id], self.config.seed
        if isinstance(row, ConversationRow):
            said = [(turn.role, turn.text) for turn in row.turns]
            return prepared_conversation(self.processor, case, said, weight=row.weight)
        entities = row.parsed_entities()
        assert entities is not None, "a snapshot holds reviews with entities only"
        boxes = boxes_among_chosen(row.boxes, case.image_indices)
        target = Target(row.findings, row.impression, entities, boxes)
        task = task_of(case.case_id, self.config.recipe.tasks, seed=seed, epoch=epoch)
        how = {"seed": seed, "epoch": epoch}
        return task_example(
            self.processor, case, target, task, self.reading.language, weight=row.weight, **how
        )


def steps_of(
    plan: Plan,
    prepared: Iterator[Sequence[PreparedCase]],
    reader: Reader,
    *,
    first: int,
    rank: int,
    world: int,
) -> Iterator[tuple[int, list[Batch]]]:
    """Number and micro-batches of every step that is left, made one step ahead of the one that is taken."""

    def made() -> Iterator[tuple[int, list[Batch]]]:
        for number in range(first, plan.num_steps):
            planned = plan.of_rank(number, rank, world)
            cases = islice(prepared, len(planned))
            epoch = plan.epoch_of(number)
            yield number, [reader.batch(*pair, epoch) for pair in zip(planned, cases, strict=True)]

    return _ahead(made())


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="examples") as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def prepared_cases(
    plan: Plan, config: FinetuneConfig, *preparer: object, first: int, rank: int, world: int
) -> Iterator[list[PreparedCase]]:
    """This rank's micro-batches in order, from step ``first`` on.

    Args:
        plan: All steps.
        config: The training's.
        *preparer: What a `Preparer` is made of.
        first: The first step that is left.
        rank: This one.
        world: Of so many.

    Raises:
        StorageError: a case's images cannot be read.
    """
    rows = [
        list(planned.examples)
        for number in range(first, plan.num_steps)
        for planned in plan.of_rank(number, rank, world)
    ]
    if not rows:
        return
    size = min(-(-len(rows) // BLOCKS), ROWS_PER_BLOCK)
    blocks = [pa.table({"examples": rows[start : start + size]}) for start in range(0, len(rows), size)]
    with DataContext.current(_context(config)):
        prepared = ray.data.from_arrow(blocks).map_batches(
            Preparer,
            fn_constructor_args=preparer,
            compute=ActorPoolStrategy(size=config.preparers_per_worker),
            batch_size=size,
            batch_format="pyarrow",
            num_cpus=config.cpus_per_preparer,
        )
    try:
        for batch in prepared.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            for row in batch["prepared"]:
                yield pickle.loads(row.as_buffer())
    except RayTaskError as err:
        if not isinstance(err.cause, SonoloopError):
            raise
        raise type(err.cause)(str(err.cause).partition("\n")[0]) from None


def _context(config: FinetuneConfig) -> DataContext:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=config.waiting_mib * 2**20
    )
    return context
