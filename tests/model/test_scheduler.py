"""The scheduler writes what plain ``generate`` writes row by row, whatever the limits."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from tests.model.tiny import IMAGE_TOKEN, tiny_model
from tests.model.tiny_requests import request
from tests.model.watched import watch_steps
from transformers import GenerationConfig

from sonoloop.model.generation import Prompt, Request, Sampling, Turn, TurnAnswer
from sonoloop.model.live import LiveBatch
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.runner import ModelRunner
from sonoloop.model.scheduler import Limits, Scheduler

WIDE = Limits(max_rows=4, max_cached_tokens=10_000, max_step_tokens=4096)
SHAPES = ((2, 30, 9), (0, 5, 25), (1, 12, 3), (3, 40, 14), (1, 3, 40), (0, 60, 1))
"""Images, words and new tokens of each request."""


@pytest.fixture(scope="module")
def reference() -> EchoVLMForConditionalGeneration:
    return tiny_model(seed=3)


@pytest.fixture(scope="module")
def runner(reference: EchoVLMForConditionalGeneration) -> ModelRunner:
    return ModelRunner(deepcopy(reference))


def mixed() -> list[Request]:
    return [request(seed, i, words, [Turn(new)]) for seed, (i, words, new) in enumerate(SHAPES)]


def run(
    runner: ModelRunner, requests: Sequence[Request], limits: Limits = WIDE, end_ids: Sequence[int] = ()
) -> list[list[TurnAnswer]]:
    found: dict[int, list[TurnAnswer]] = {}
    batch = LiveBatch(Scheduler(runner, None, end_ids, limits))
    for index, _, outcome in batch.run(requests, streamed=False):
        assert isinstance(outcome, list)
        found[index] = outcome
    return [found[index] for index in range(len(requests))]


def greedy(model: EchoVLMForConditionalGeneration, prompt: Prompt, num_new: int) -> list[int]:
    """What transformers' own ``generate`` writes for one prompt alone."""
    ids = torch.tensor([prompt.token_ids])
    images = {}
    if len(prompt.image_grid_thw):
        images = {
            "pixel_values": prompt.patches.normalised(),
            "image_grid_thw": torch.from_numpy(prompt.image_grid_thw),
        }
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == IMAGE_TOKEN).long(),
        generation_config=GenerationConfig(max_new_tokens=num_new, do_sample=False, pad_token_id=0),
        **images,
    )
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "limits",
    [
        WIDE,
        Limits(max_rows=1, max_cached_tokens=10_000, max_step_tokens=4096),
        Limits(max_rows=4, max_cached_tokens=300, max_step_tokens=4096),
        Limits(max_rows=4, max_cached_tokens=10_000, max_step_tokens=7),
    ],
    ids=["wide", "one row", "little memory", "prompts in chunks"],
)
def test_mixed_requests_are_answered_as_if_each_were_alone(
    reference: EchoVLMForConditionalGeneration, runner: ModelRunner, limits: Limits
) -> None:
    requests = mixed()
    for one, (answer,) in zip(requests, run(runner, requests, limits), strict=True):
        assert list(answer.token_ids) == greedy(reference, one.prompt, one.turns[0].max_new_tokens)
        assert not answer.ended
        assert len(answer.log_probs) == len(answer.token_ids)
        assert all(log_prob < 0 for log_prob in answer.log_probs)


def test_the_budget_bounds_the_slots(runner: ModelRunner) -> None:
    fresh = ModelRunner(runner.model)
    budget = 300
    run(fresh, mixed(), Limits(max_rows=4, max_cached_tokens=budget, max_step_tokens=4096))
    assert 0 < fresh.arena.num_slots * fresh.arena.capacity <= budget


def test_no_token_is_fed_twice_and_none_for_padding(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = ModelRunner(runner.model)
    fed = watch_steps(fresh, monkeypatch)
    requests = mixed()[2:3] * 4  # the same system prompt: read by the first row, copied by later ones
    run(fresh, requests, Limits(max_rows=1, max_cached_tokens=10_000, max_step_tokens=4096))
    prompt, new = len(requests[0].prompt.token_ids), requests[0].turns[0].max_new_tokens
    shared = requests[0].prompt.token_ids.index(IMAGE_TOKEN)
    assert sum(fed) == 4 * (prompt + new - 1) - 3 * shared


def test_a_finished_row_makes_room_at_once(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    fed = watch_steps(runner, monkeypatch)
    lengths = [40, 3, 3, 3, 3, 3, 3, 3, 3]
    requests = [request(0, 0, 4, [Turn(length)]) for length in lengths]
    run(runner, requests, Limits(max_rows=2, max_cached_tokens=10_000, max_step_tokens=4096))
    assert len(fed) == 40  # padded batches of two would take 40 + 3 + 3 + 3 + 3
    assert max(fed) <= 2 * len(requests[0].prompt.token_ids)


def test_each_distinct_image_goes_through_the_vision_tower_once(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = ModelRunner(runner.model, max_patches=8)
    seen: list[int] = []
    hook = fresh.model.model.visual.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len((args or (kwargs["hidden_states"],))[0])), with_kwargs=True
    )
    requests = [mixed()[3], mixed()[3], mixed()[0]]
    run(fresh, requests)
    hook.remove()
    assert sum(seen) == sum(len(r.prompt.patches) for r in requests[1:])
    assert len(seen) == sum(len(r.prompt.image_grid_thw) for r in requests[1:])  # at most 8 patches at once


def test_a_second_turn_goes_on_where_the_first_ended(
    reference: EchoVLMForConditionalGeneration, runner: ModelRunner
) -> None:
    first = request(7, 2, 10, [Turn(30)])
    alone = greedy(reference, first.prompt, 30)
    end = alone[6]
    cut = alone.index(end) + 1
    text = (40, 41, 42)
    both = Request(first.prompt, (Turn(30), Turn(12, text_ids=text)))
    answers = run(runner, [both, *mixed()], end_ids=(end, 2))[0]
    assert list(answers[0].token_ids) == alone[:cut]
    assert answers[0].ended
    whole = Prompt(
        [*first.prompt.token_ids, *alone[:cut], *text], first.prompt.patches, both.prompt.image_grid_thw
    )
    expected = greedy(reference, whole, 12)
    ends = [at for at, token_id in enumerate(expected) if token_id in (end, 2)]
    assert list(answers[1].token_ids) == expected[: ends[0] + 1 if ends else 12]


def test_a_turn_that_does_not_end_is_the_last(runner: ModelRunner) -> None:
    cut = request(7, 0, 10, [Turn(4), Turn(12, text_ids=(40,))])
    (answers,) = run(runner, [cut], end_ids=(319,))
    assert len(answers) == 1
    assert not answers[0].ended
    assert len(answers[0].token_ids) == 4


def test_drawn_tokens_follow_the_seed_and_not_the_company(runner: ModelRunner) -> None:
    drawn = request(5, 1, 10, [Turn(20)], Sampling(temperature=2.0, seed=11))
    other = request(5, 1, 10, [Turn(20)], Sampling(temperature=2.0, seed=12))
    (alone,), (different,) = run(runner, [drawn])[0], run(runner, [other])[0]
    (together,) = run(runner, [*mixed(), drawn])[-1]
    assert alone.token_ids == together.token_ids != different.token_ids


def test_nothing_asked_is_nothing_answered(runner: ModelRunner) -> None:
    assert run(runner, []) == []
