"""How an epoch is cut into batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonoloop.model.training.batching import Plan, plan_batches, replayed

LENGTHS = np.random.default_rng(0).lognormal(6, 0.5, 1000).astype(int).tolist()


def padded(plan: Plan, lengths: list[int]) -> int:
    return sum(len(batch) * max(lengths[index] for index in batch) for batches in plan for batch in batches)


@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=60),
    batch_size=st.integers(1, 5),
    world=st.integers(1, 9),
    max_tokens=st.none() | st.integers(1, 2000),
    epoch=st.integers(0, 3),
)
def test_every_rank_takes_as_many_steps_and_every_example_comes_once(
    lengths: list[int], batch_size: int, world: int, max_tokens: int | None, epoch: int
) -> None:
    plan = plan_batches(
        lengths, batch_size=batch_size, world=world, seed=1, epoch=epoch, max_tokens=max_tokens
    )
    assert len(plan) == world
    assert len({len(batches) for batches in plan}) == 1
    batches = [batch for of_rank in plan for batch in of_rank]
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    counts = Counter(index for batch in batches for index in batch)
    assert set(counts) == set(range(len(lengths)))
    if max(counts.values()) > 1:  # some rank had nothing else to do
        assert max(map(len, batches)) == 1
        assert sum(counts.values()) - len(lengths) < world
    for batch in batches:
        if max_tokens is not None and len(batch) > 1:
            assert len(batch) * max(lengths[index] for index in batch) <= max_tokens


def test_the_plan_depends_on_seed_and_epoch_alone() -> None:
    def plan(seed: int, epoch: int) -> Plan:
        return plan_batches(LENGTHS, batch_size=4, world=2, seed=seed, epoch=epoch)

    assert plan(0, 0) == plan(0, 0)
    assert plan(0, 0) != plan(0, 1)
    assert plan(0, 0) != plan(1, 0)


def test_batches_of_like_length_hold_little_padding() -> None:
    plan = plan_batches(LENGTHS, batch_size=8, world=2, seed=0, epoch=0)
    order = np.random.default_rng(1).permutation(len(LENGTHS)).tolist()
    at_random = [[order[start : start + 8] for start in range(0, len(order), 8)]]
    assert padded(plan, LENGTHS) < 1.03 * sum(LENGTHS)
    assert padded(at_random, LENGTHS) > 1.5 * sum(LENGTHS)


def test_ranks_of_one_step_get_rows_of_like_length() -> None:
    plan = plan_batches(LENGTHS, batch_size=8, world=4, seed=0, epoch=0)
    waits = [
        max(costs) / min(costs)
        for step in zip(*plan, strict=True)
        for costs in [[padded([[batch]], LENGTHS) for batch in step]]
    ]
    assert np.median(waits) < 1.1


def test_no_example_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an example"):
        plan_batches([], batch_size=1, world=1, seed=0, epoch=0)


def test_an_epoch_replays_other_older_reviews_each_time_beside_all_new_ones() -> None:
    is_new = [index % 5 == 0 for index in range(100)]
    first, second = (replayed(is_new, 1.0, seed=0, epoch=epoch) for epoch in (0, 1))
    assert first == replayed(is_new, 1.0, seed=0, epoch=0)
    assert first != second
    for chosen in (first, second):
        assert len(chosen) == len(set(chosen)) == 40
        assert sum(is_new[index] for index in chosen) == 20
    assert replayed(is_new, 9.0, seed=0, epoch=0) == replayed(is_new, None, seed=0, epoch=0) == [*range(100)]
    assert replayed(is_new, 0.0, seed=0, epoch=0) == [i for i, new in enumerate(is_new) if new]
    assert replayed([False] * 7, 1.0, seed=0, epoch=0) == [*range(7)]
