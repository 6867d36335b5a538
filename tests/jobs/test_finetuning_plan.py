"""What a step takes does not depend on who takes it; which settings shape a training."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from sonoloop.jobs.finetuning.config import PLACEMENT, FinetuneConfig
from sonoloop.jobs.finetuning.plan import Plan

LENGTHS = tuple(random.Random(1).choices(range(50, 400), k=37))


def plan_of(num_examples: int = 37, **settings: Any) -> Plan:
    given = {"recipe": "full", "epochs": 2, "batch_size": 6, "micro_batch_size": 2, **settings}
    return Plan(LENGTHS[:num_examples], [True] * num_examples, FinetuneConfig(**given))


def counted(plan: Plan, step: int, world: int) -> list[tuple[int, ...]]:
    """The micro-batches of a step that count, of all ranks."""
    ranks = [plan.of_rank(step, rank, world) for rank in range(world)]
    assert {len(of_rank) for of_rank in ranks} == {plan.accumulated(world)}
    return sorted(planned.examples for of_rank in ranks for planned in of_rank if planned.counts)


@pytest.mark.parametrize("num_examples", [1, 2, 5, 6, 7, 37])
def test_a_step_is_the_same_for_any_number_of_workers_and_all_of_them_run_as_many_micro_batches(
    num_examples: int,
) -> None:
    plan = plan_of(num_examples)
    for step in range(plan.num_steps):
        alone = counted(plan, step, 1)
        assert all(counted(plan, step, world) == alone for world in (2, 3, 4, 5))


def test_every_example_comes_once_per_epoch_in_another_order() -> None:
    plan = plan_of()
    epochs: dict[int, list[int]] = {0: [], 1: []}
    for step in range(plan.num_steps):
        epochs[plan.epoch_of(step)] += [index for batch in plan.micro_batches(step) for index in batch]
    assert all(Counter(epoch) == Counter(range(37)) for epoch in epochs.values())
    assert epochs[0] != epochs[1]
    ends = [step for step in range(plan.num_steps) if plan.ends_epoch(step)]
    assert ends[-1] == plan.num_steps - 1
    assert len(ends) == 2


def test_an_epoch_replays_as_many_learnt_reviews_as_the_recipe_says() -> None:
    config = FinetuneConfig(recipe={"name": "corrections", "replay": 0.5}, epochs=1)
    plan = Plan(LENGTHS, [index < 10 for index in range(37)], config)
    seen = [i for step in range(plan.num_steps) for batch in plan.micro_batches(step) for i in batch]
    assert (sum(i < 10 for i in seen), sum(i >= 10 for i in seen)) == (10, 5)


def test_a_limit_of_tokens_makes_micro_batches_smaller() -> None:
    limited = plan_of(max_tokens=500)
    batches = [batch for step in range(limited.num_steps) for batch in limited.micro_batches(step)]
    assert all(len(b) == 1 or len(b) * max(LENGTHS[i] for i in b) <= 500 for b in batches)


def test_where_and_how_a_training_runs_does_not_make_it_another_one() -> None:
    plain = FinetuneConfig()
    moved = FinetuneConfig(
        num_workers=7, min_workers=2, zero_stage=3, offload="parameters", use_gpu=False, max_failures=9
    )
    assert moved.shape == plain.shape
    assert FinetuneConfig(use_gpu=True).shape != plain.shape  # it computes in bfloat16
    assert FinetuneConfig(use_gpu=True, bf16=False).shape == plain.shape
    assert FinetuneConfig(learning_rate=2e-5).shape != plain.shape
    assert FinetuneConfig(recipe="full").shape != plain.shape
    assert set(FinetuneConfig.model_fields) >= PLACEMENT


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"offload": "optimizer", "zero_stage": 1}, "zero_stage 2 or 3"),
        ({"offload": "parameters", "zero_stage": 2}, "zero_stage 3"),
        ({"min_workers": 3}, "must not be above num_workers"),
        ({"recipe": "everything"}, "recipe"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FinetuneConfig(**settings)
