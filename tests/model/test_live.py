"""Requests of many threads in one batch: each is answered as if alone, whatever becomes of the others."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import pytest
import torch
from spoiled import not_numbers
from tests.model.tiny import tiny_model
from tests.model.tiny_requests import request
from tests.model.watched import watch_steps
from torch import Tensor

from sonoloop.model.generation import Outcome, Prompt, Request, Sampling, Token, Turn
from sonoloop.model.live import LiveBatch
from sonoloop.model.runner import EmbeddedPrompt, ModelRunner
from sonoloop.model.sampling import choose, draw, most_likely
from sonoloop.model.scheduler import Limits, Row, Scheduler
from sonoloop.platform.errors import Reason, RejectedError

WIDE = Limits(max_rows=4, max_cached_tokens=20_000, max_step_tokens=4096)
Batch = LiveBatch[Row]


@pytest.fixture(scope="module")
def model_runner() -> ModelRunner:
    return ModelRunner(tiny_model(seed=3))


@pytest.fixture
def runner(model_runner: ModelRunner) -> ModelRunner:
    return ModelRunner(model_runner.model)  # with an arena of its own


def batch_of(runner: ModelRunner, limits: Limits = WIDE) -> Batch:
    return LiveBatch(Scheduler(runner, None, (), limits))


def mixed(num: int) -> list[Request]:
    sampling = [Sampling(), Sampling(temperature=1.5, seed=5), Sampling(temperature=1.0, seed=7, top_p=0.8)]
    return [
        request(seed, seed % 3, 3 + 7 * seed % 41, [Turn(1 + 11 * seed % 37)], sampling[seed % 3])
        for seed in range(num)
    ]


def ids(outcome: Outcome | None) -> list[tuple[int, ...]]:
    assert isinstance(outcome, list)
    return [answer.token_ids for answer in outcome]


def answers(batch: Batch, requests: Sequence[Request]) -> list[list[tuple[int, ...]]]:
    found = {index: ids(outcome) for index, _, outcome in batch.run(requests, streamed=False)}
    return [found[index] for index in range(len(requests))]


def streamed(batch: Batch, one: Request) -> list[int]:
    return [token.token_id for _, tokens, _ in batch.run([one], streamed=True) for token in tokens]


def is_idle(batch: Batch) -> bool:
    """Whether the batch comes to rest: no thread, no rows, nothing waiting."""
    end = time.monotonic() + 60
    while batch._thread is not None and time.monotonic() < end:
        time.sleep(0.005)
    scheduler = batch._stepper
    assert isinstance(scheduler, Scheduler)
    return (batch._thread, batch.load(), scheduler._rows) == (None, (0, 0), [])


def test_threads_that_ask_at_the_same_time_get_what_they_get_alone(runner: ModelRunner) -> None:
    requests = mixed(24)
    batch = batch_of(runner)
    alone = [answers(batch, [one])[0] for one in requests]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda one: answers(batch, [one])[0], requests))
        told = list(pool.map(lambda one: streamed(batch, one), requests))
    assert together == alone
    assert [[tuple(tokens)] for tokens in told] == alone
    assert is_idle(batch)


def test_a_request_joins_in_the_middle_and_leaves_before_the_others(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = request(1, 1, 20, [Turn(60)]), request(2, 0, 9, [Turn(4)])
    batch = batch_of(runner)
    expected = answers(batch, [long])[0] + answers(batch, [short])[0]
    fed: list[int] = []
    step = runner.step
    monkeypatch.setattr(
        runner, "step", lambda embeddings, *rest: (fed.append(len(embeddings)), step(embeddings, *rest))[1]
    )
    first = batch.run([long], streamed=True)
    begun = [token.token_id for _, tokens, _ in islice(first, 3) for token in tokens]
    assert streamed(batch, short) == list(expected[1])
    assert batch.load() == (1, 0)
    rest = [token.token_id for _, tokens, _ in first for token in tokens]
    assert begun + rest == list(expected[0])
    assert fed.count(2) == 4  # all of the short one happened in the long one's steps
    assert len(fed) == 60


def test_a_long_prompt_is_read_in_chunks_while_others_write(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(runner, Limits(max_rows=4, max_cached_tokens=20_000, max_step_tokens=50))
    writing = batch.run([request(1, 0, 10, [Turn(1900)])], streamed=True)
    next(writing)
    fed: list[int] = []
    step = runner.step
    monkeypatch.setattr(
        runner, "step", lambda embeddings, *rest: (fed.append(len(embeddings)), step(embeddings, *rest))[1]
    )
    (call,) = batch._calls
    before = call.events.qsize()
    streamed(batch, request(2, 0, 900, [Turn(2)]))
    assert call.events.qsize() - before >= 18  # 900 tokens are 18 steps of 49 and one
    writing.close()
    assert fed.count(50) == 18
    assert max(fed) == 50


def test_a_request_that_is_given_up_frees_its_slot(runner: ModelRunner) -> None:
    batch = batch_of(runner, replace(WIDE, max_rows=1))
    endless = [batch.run([request(seed, 0, 5, [Turn(1900)])], streamed=True) for seed in range(2)]
    for stream in endless:  # the second one has the place that is kept for calls without a row
        next(stream)
    assert batch.load() == (2, 0)
    waiting = threading.Thread(target=streamed, args=(batch, request(3, 0, 5, [Turn(2)])))
    waiting.start()
    while batch.load() != (2, 1):
        time.sleep(0.001)
    endless[0].close()
    waiting.join(60)
    assert not waiting.is_alive()
    endless[1].close()
    assert is_idle(batch)


def test_nothing_is_left_after_many_requests_of_which_half_are_given_up(runner: ModelRunner) -> None:
    limits = Limits(max_rows=4, max_cached_tokens=600, max_step_tokens=64)
    batch = batch_of(runner, limits)
    requests = mixed(20)
    expected = [answers(batch, [one])[0] for one in requests]

    def ask(number: int) -> None:
        drawn = random.Random(number)
        index = drawn.randrange(len(requests))
        stream = batch.run([requests[index]], streamed=True)
        if drawn.random() < 0.5:
            list(islice(stream, drawn.randrange(4)))
            stream.close()
        else:
            (written,) = [ids(outcome) for _, _, outcome in stream if outcome is not None]
            assert written == expected[index]

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(ask, range(200)))
    assert is_idle(batch)
    arena = runner.arena
    assert arena.num_slots * arena.capacity <= limits.max_cached_tokens
    assert not any(tensor.any() for tensor in (*arena._keys, *arena._values))


def test_a_row_that_is_not_finite_fails_alone_and_spoils_no_later_one(runner: ModelRunner) -> None:
    batch = batch_of(runner, replace(WIDE, max_step_tokens=16))  # it fails after several steps of reading
    good = mixed(6)
    expected = answers(batch, good)
    one = request(1, 2, 40, [Turn(20)])
    bad = replace(one, prompt=replace(one.prompt, patches=not_numbers(one.prompt.patches)))
    outcomes = {index: outcome for index, _, outcome in batch.run([bad, *good], streamed=False)}
    failed = outcomes.pop(0)
    assert isinstance(failed, RejectedError)
    assert (failed.reason, failed.retryable) == (Reason.MODEL_FAILED, True)
    assert [ids(outcomes[index]) for index in sorted(outcomes)] == expected
    scheduler = batch._stepper
    assert isinstance(scheduler, Scheduler)
    row = scheduler.open(bad)
    assert scheduler.admit(row)
    while not any(tensor.isnan().any() for tensor in runner.arena._keys):
        scheduler.step()
    scheduler.remove(row)  # given up before anybody noticed; its slot is used again
    assert answers(batch, good) == expected
    assert is_idle(batch)


def test_a_step_that_fails_is_tried_again_by_halves_and_nothing_is_told_twice(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [request(seed, 1, 10, [Turn(30)]) for seed in range(4)]
    batch = batch_of(runner)
    expected = answers(batch, requests)
    step, num_steps, failed = runner.step, iter(range(10**6)), []

    def short_of_memory(embeddings: Tensor, *rest: object) -> Tensor:
        if next(num_steps) > 10 and len(batch._inside) > 1:
            failed.append(len(batch._inside))
            raise RuntimeError("out of memory")
        return step(embeddings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "step", short_of_memory)
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda one: streamed(batch, one), requests))
    assert [[tuple(tokens)] for tokens in told] == expected
    assert failed
    assert is_idle(batch)


def test_what_a_step_stored_that_failed_after_it_is_emptied(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TooLarge:
        def log_softmax(self, **_: object) -> Tensor:
            raise RuntimeError("out of memory")

    requests = [request(seed, 1, 10, [Turn(30)]) for seed in range(4)]
    batch = batch_of(runner)
    expected = answers(batch, requests)
    step = runner.step

    def short_of_memory(embeddings: Tensor, *rest: object) -> object:
        logits = step(embeddings, *rest)  # type: ignore[arg-type]
        return TooLarge() if len(batch._inside) > 2 else logits

    monkeypatch.setattr(runner, "step", short_of_memory)
    assert answers(batch, requests) == expected
    assert is_idle(batch)
    assert not any(tensor.any() for tensor in (*runner.arena._keys, *runner.arena._values))


def test_a_beginning_that_is_in_use_is_kept_whatever_else_is_asked(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = watch_steps(runner, monkeypatch)
    batch, usual = batch_of(runner), request(0, 0, 40, [Turn(1)])
    answers(batch, [usual])
    for seed in range(1, 20):
        answers(batch, [request(seed, 0, 40, [Turn(1)])])
        fed.clear()
        answers(batch, [usual])
        assert fed == [1]


def test_a_request_on_which_the_model_fails_every_time_is_found_and_the_others_are_answered(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = mixed(8)
    batch = batch_of(runner)
    expected = answers(batch, requests)
    poison, embed = requests[5].prompt, runner.embed_prompt

    def failing(prompt: Prompt) -> EmbeddedPrompt:
        if prompt is poison:
            raise RuntimeError("a kernel failed on Jane Doe")
        return embed(prompt)

    monkeypatch.setattr(runner, "embed_prompt", failing)
    outcomes = {index: outcome for index, _, outcome in batch.run(requests, streamed=False)}
    failed = outcomes.pop(5)
    assert isinstance(failed, RejectedError)
    assert "RuntimeError" in str(failed)
    assert [ids(outcomes[index]) for index in sorted(outcomes)] == expected[:5] + expected[6:]
    assert "Jane" not in caplog.text + str(failed)
    assert is_idle(batch)


def test_a_question_need_not_wait_for_a_large_batch_nor_one_batch_for_another(runner: ModelRunner) -> None:
    batch = batch_of(runner)
    many = batch.run([request(seed, 0, 5, [Turn(200)]) for seed in range(40)], streamed=True)
    next(many)
    question = streamed(batch, request(1, 0, 9, [Turn(5)]))
    assert len(question) == 5
    inside, waiting = batch.load()
    assert inside == 4
    assert waiting == 36  # none of the many was done before
    few = batch.run([request(seed, 0, 5, [Turn(3)]) for seed in range(6)], streamed=True)
    done = sum(outcome is not None for _, _, outcome in few)
    assert done == 6
    assert batch.load() == (4, 36)
    many.close()
    assert is_idle(batch)


def test_a_long_request_waits_for_room_and_the_budget_holds_throughout(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(max_rows=8, max_cached_tokens=700, max_step_tokens=256)
    batch = batch_of(runner, limits)
    short = [request(seed, 1, 10, [Turn(25)]) for seed in range(12)]
    long = request(50, 0, 400, [Turn(50)])
    expected = answers(batch, [*short, long])
    shapes: list[tuple[int, int]] = []
    step, arena = runner.step, runner.arena

    def watched(*inputs: object) -> Tensor:
        kept = sum(tensors[0].shape[1] for tensors in scheduler._prefixes.values())
        shapes.append((arena.num_slots, arena.capacity))
        assert arena.num_slots * arena.capacity + kept <= limits.max_cached_tokens
        return step(*inputs)  # type: ignore[arg-type]

    scheduler = batch._stepper
    assert isinstance(scheduler, Scheduler)
    monkeypatch.setattr(runner, "step", watched)
    with ThreadPoolExecutor(14) as pool:
        told = list(pool.map(lambda one: answers(batch, [one])[0], [*short[:6], long, *short[6:]]))
    assert told == [*expected[:6], expected[-1], *expected[6:-1]]
    assert max(num for num, _ in shapes) > 4  # many short ones
    assert max(capacity for _, capacity in shapes) > 450  # and the long one


def test_an_idle_batch_has_no_thread_and_is_not_kept_alive(runner: ModelRunner) -> None:
    batch = batch_of(runner)
    answers(batch, mixed(3))
    assert is_idle(batch)
    stream = batch.run([request(1, 0, 5, [Turn(1900)])], streamed=True)
    next(stream)
    thread, gone = batch._thread, weakref.ref(batch)
    del stream, batch  # a caller that goes without a word
    assert thread is not None
    thread.join(60)
    gc.collect()
    assert not thread.is_alive()
    assert gone() is None


def test_closing_ends_all_calls_with_an_error(runner: ModelRunner) -> None:
    batch = batch_of(runner)
    running = batch.run([request(seed, 0, 5, [Turn(1900)]) for seed in range(9)], streamed=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, running)
        while batch.load()[0] < 4:
            time.sleep(0.001)
        batch.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(60)
    assert batch._thread is None
    with pytest.raises(RuntimeError, match="closed"):
        next(batch.run(mixed(1), streamed=False))


def test_a_batch_that_breaks_down_leaves_nobody_waiting_and_serves_the_next(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(runner)

    def step() -> list[tuple[Row, list[Token], Outcome | None]]:
        return [(Row(mixed(1)[0]), [], None)]  # a row that is not inside

    with monkeypatch.context() as broken:
        broken.setattr(batch._stepper, "step", step)
        outcomes = [outcome for _, _, outcome in batch.run(mixed(6), streamed=False)]
    assert {str(outcome) for outcome in outcomes} == {"model-failed: KeyError"}
    assert len(outcomes) == 6
    assert len(answers(batch, mixed(3))) == 3
    assert is_idle(batch)


def test_a_drawn_token_is_among_the_most_likely_ones() -> None:
    log_probs = torch.tensor([0.1, 0.5, 0.25, 0.15]).log()
    generator = torch.Generator().manual_seed(0)

    def drawn(top_p: float, temperature: float = 1.0) -> set[int]:
        return {choose(log_probs, Sampling(temperature, 0, top_p), generator) for _ in range(200)}

    assert drawn(1.0) == {0, 1, 2, 3}
    assert drawn(0.8) == {1, 2, 3}
    assert drawn(0.7) == {1, 2}
    assert drawn(0.01) == {1}
    assert drawn(1.0, temperature=1e-30) == {1}
    assert choose(log_probs, Sampling(), None) == 1
    assert [index for index, _ in most_likely(log_probs, 3)] == [1, 2, 3]
    assert len(most_likely(log_probs, 20)) == 4
    assert most_likely(log_probs, 0) == ()


def test_what_a_row_draws_does_not_depend_on_who_draws_beside_it() -> None:
    log_probs_RA = torch.randn(3, 50, generator=torch.manual_seed(3)).log_softmax(dim=-1)
    samplings = [Sampling(0.2, 0), Sampling(1.0, 0, 0.5), Sampling(5.0, 0)]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    alone = [
        [choose(row, *way) for _ in range(20)]
        for row, *way in zip(log_probs_RA, samplings, generators(), strict=True)
    ]
    ways = list(zip(samplings, generators(), strict=True))
    together = [draw(log_probs_RA, ways) for _ in range(20)]
    assert [list(drawn) for drawn in zip(*together, strict=True)] == alone
    assert len({*alone[2]}) > 10
