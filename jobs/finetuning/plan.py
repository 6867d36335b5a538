"""Which examples a step takes, in an order that depends on nothing but the examples and the seed.

A step is planned for all workers together, as micro-batches of like length, and these are dealt out to
however many workers there are. So a step is the same sum over the same micro-batches with one worker or many,
and a training may go on with another number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.model.training.batching import plan_batches, replayed

MicroBatch = tuple[int, ...]
"""Indices of examples that go through the model together."""


@dataclass(frozen=True)
class Planned:
    """A micro-batch of one rank.

    Attributes:
        examples: Its examples.
        counts: Whether the step counts it. A rank that has fewer than others runs one more that does not:
            all take part in all collective operations, and DeepSpeed accumulates a fixed number.
    """

    examples: MicroBatch
    counts: bool = True


@dataclass(frozen=True)
class Plan:
    """All steps of a training.

    Attributes:
        lengths: Tokens of each example.
        is_new: Whether the base was not trained on it.
        config: The training's.
    """

    lengths: Sequence[int]
    is_new: Sequence[bool]
    config: FinetuneConfig

    @cached_property
    def per_step(self) -> int:
        """Micro-batches of a step, over all workers; no more than there are examples for."""
        fullest = min(self.config.batch_size, len(self.lengths))
        return -(-fullest // self.config.micro_batch_size)

    @cached_property
    def _steps(self) -> list[tuple[int, tuple[MicroBatch, ...]]]:
        """Epoch and micro-batches of every step."""
        return [
            (epoch, micro_batches)
            for epoch in range(self.config.epochs)
            for micro_batches in self._epoch(epoch)
        ]

    def _epoch(self, epoch: int) -> list[tuple[MicroBatch, ...]]:
        config = self.config
        chosen = replayed(self.is_new, config.recipe.replay, seed=config.seed, epoch=epoch)
        parts = plan_batches(
            [self.lengths[index] for index in chosen],
            batch_size=config.micro_batch_size,
            world=self.per_step,
            seed=config.seed,
            epoch=epoch,
            max_tokens=config.max_tokens,
        )
        steps = zip(*parts, strict=True)
        return [tuple(tuple(chosen[place] for place in part) for part in step) for step in steps]

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return len(self._steps)

    def epoch_of(self, step: int) -> int:
        """The epoch that a step belongs to, from 0; steps count from 0."""
        return self._steps[step][0]

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is its epoch's last."""
        return step + 1 == self.num_steps or self.epoch_of(step + 1) != self.epoch_of(step)

    def micro_batches(self, step: int) -> tuple[MicroBatch, ...]:
        """A step, for all workers together."""
        return self._steps[step][1]

    def accumulated(self, world: int) -> int:
        """Micro-batches of each of so many workers in every step."""
        return -(-self.per_step // world)

    def of_rank(self, step: int, rank: int, world: int) -> tuple[Planned, ...]:
        """One worker's share of a step: as many micro-batches for each worker and step."""
        batches = self.micro_batches(step)
        mine = [Planned(batch) for batch in batches[rank::world]]
        missing = self.accumulated(world) - len(mine)
        return (*mine, *[Planned(batches[0], counts=False)] * missing)
