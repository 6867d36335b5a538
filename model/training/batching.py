"""Which examples train together: rows of like length in a batch, as many steps on every rank.

Rows are sorted by length within pools of many batches, pools are drawn anew every epoch, and the ranks of one
step get neighbours in length, so that none waits long for another. The plan depends on lengths, seed, epoch
and number of ranks alone; every rank computes the same one and takes its own part.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeAlias

Plan: TypeAlias = list[list[list[int]]]
"""Rank -> step -> indices of the examples."""

POOL_BATCHES = 64
"""Batches per rank in a pool: wide enough for like lengths, narrow enough that batches differ by epoch."""


def plan_batches(
    lengths: Sequence[int],
    *,
    batch_size: int,
    world: int,
    seed: int,
    epoch: int,
    max_tokens: int | None = None,
) -> Plan:
    """Cut one epoch into batches.

    Every example comes exactly once. Only where there are fewer examples than ranks, or one row per batch and
    a remainder, some come twice: every rank has to take part in every step.

    Args:
        lengths: Tokens per example, images included.
        batch_size: Most rows of a batch, per rank and step.
        world: Number of ranks.
        seed: Of the run's order.
        epoch: Counts from 0.
        max_tokens: Most tokens of a batch with its padding, rows times the longest; a longer row comes alone.

    Returns:
        For each rank its batches, equally many on all.

    Raises:
        ValueError: There is no example, or a limit is below 1.
    """
    if not lengths or batch_size < 1 or world < 1 or (max_tokens is not None and max_tokens < 1):
        raise ValueError("expected an example, and batch_size, world and max_tokens of at least 1")
    rng = random.Random(f"{seed}-{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    size = POOL_BATCHES * batch_size * world
    batches: list[list[int]] = []
    for start in range(0, len(order), size):
        pool = sorted(order[start : start + size], key=lambda index: lengths[index])
        batches += _cut(pool, lengths, batch_size, max_tokens)
    _even_out(batches, world)
    steps = [batches[start : start + world] for start in range(0, len(batches), world)]
    rng.shuffle(steps)
    for step in steps:
        rng.shuffle(step)  # no rank always gets the longer half
    return [[step[rank] for step in steps] for rank in range(world)]


def _cut(
    pool: Sequence[int], lengths: Sequence[int], batch_size: int, max_tokens: int | None
) -> list[list[int]]:
    """Batches of a pool that is sorted by length: a new row is the longest of its batch."""
    batches: list[list[int]] = []
    for index in pool:
        rows = len(batches[-1]) + 1 if batches else 0
        full = rows > batch_size or (max_tokens is not None and rows * lengths[index] > max_tokens)
        if not batches or full:
            batches.append([])
        batches[-1].append(index)
    return batches


def _even_out(batches: list[list[int]], world: int) -> None:
    """Halve the fullest batches up to a multiple of ``world``; repeat some where none has two rows."""
    while len(batches) % world:
        fullest = max(range(len(batches)), key=lambda place: len(batches[place]))
        rows = batches[fullest]
        if len(rows) == 1:
            missing = -len(batches) % world
            batches += [batches[place % len(batches)] for place in range(missing)]
            return
        half = len(rows) // 2
        batches[fullest : fullest + 1] = [rows[:half], rows[half:]]


def replayed(is_new: Sequence[bool], replay: float | None, *, seed: int, epoch: int) -> list[int]:
    """Which examples an epoch trains on: the new ones, and some of those that the base has learnt already.

    Args:
        is_new: Per example, whether the base was not trained on it.
        replay: Older examples per new one; None takes all of them.
        seed: Of the run.
        epoch: Counts from 0; each draws other older ones.

    Returns:
        Indices in order. Without a new example, all.
    """
    new = [index for index, fresh in enumerate(is_new) if fresh]
    old = [index for index, fresh in enumerate(is_new) if not fresh]
    if replay is None or not new:
        return sorted(new + old)
    count = min(round(replay * len(new)), len(old))
    return sorted(new + random.Random(f"replay-{seed}-{epoch}").sample(old, count))
