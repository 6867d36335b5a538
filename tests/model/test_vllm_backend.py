"""vLLM answers as our transformers backend does; run by ``make test-vllm``, in an environment of its own."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from spoiled import cut_short, not_numbers

from sonoloop.model import nano
from sonoloop.model.draft import Draft
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.generation import Prompt, Request, Sampling, Turn, TurnAnswer
from sonoloop.model.open_engine import open_engine
from sonoloop.model.patches import Patches
from sonoloop.model.prepared import PreparedCase
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.prompts import report_turns
from sonoloop.model.structured import RowSpec
from sonoloop.model.vllm_engine.settings import is_available
from sonoloop.platform.errors import CheckpointError, ConfigError, Reason, RejectedError
from sonoloop.platform.lexicon import ORGANS, Organ, parse_generated

if not is_available():
    pytest.skip("vLLM is not installed here; make test-vllm", allow_module_level=True)

from sonoloop.model.decoding import answer_text
from sonoloop.model.vllm_engine.backend import VllmBackend
from sonoloop.model.vllm_engine.core import VllmCore, Written
from sonoloop.model.vllm_engine.engine import VllmEngine

NoiseCase = Callable[..., PreparedCase]
FIXTURES = Path(__file__).parent.parent / "fixtures"
CPU = EngineConfig(dtype="float32", max_report_tokens=192, kv_cache_gib=0.25)


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    made = VllmEngine(nano.folder(), CPU)
    yield made
    made.backend.close()


@pytest.fixture(scope="module")
def ours() -> TransformersEngine:
    return TransformersEngine(nano.folder(), CPU)


@pytest.fixture(scope="module")
def cases(noise_case: NoiseCase) -> list[PreparedCase]:
    hints: tuple[Organ | None, ...] = (*ORGANS, None)
    return [noise_case(i, num_images=1 + i % 3, organ=hints[i % len(hints)]) for i in range(2 * len(hints))]


@pytest.fixture(scope="module")
def together(engine: VllmEngine, cases: list[PreparedCase]) -> list[Draft | RejectedError]:
    return engine.draft(cases)


def plain(result: Draft | RejectedError) -> object:
    """What has to be equal to the last character."""
    if isinstance(result, RejectedError):
        return (result.reason, result.detail)
    return replace(result, value_probabilities={}, report_score=0.0)


def request(
    processor: EchoVLMProcessor, case: PreparedCase, *turns: Turn, sampling: Sampling | None = None
) -> Request:
    ids = processor.token_ids(report_turns(len(case.image_grid_thw), case.organ_hint), case.image_grid_thw)
    prompt = Prompt(ids, case.patches, case.image_grid_thw)
    return Request(prompt, turns, sampling or Sampling())


def tokens(answers: list[TurnAnswer] | RejectedError) -> list[tuple[int, ...]]:
    assert not isinstance(answers, RejectedError)
    return [answer.token_ids for answer in answers]


def entities_turn(case: PreparedCase) -> Turn:
    return Turn(400, constraint=RowSpec(case.organ_hint, len(case.image_grid_thw)))


def test_greedy_tokens_are_the_published_ones_with_and_without_images() -> None:
    folder = FIXTURES / "echovlm-tiny-hd32"
    with np.load(folder / "io.npz") as stored:
        io = dict(stored)
    backend = VllmBackend(folder, None, CPU)
    requests, first_image, first_patch = [], 0, 0
    for ids, mask in zip(io["input_ids"], io["attention_mask"], strict=True):
        token_ids = ids[mask.astype(bool)].tolist()
        grids = []
        while sum(int(grid.prod()) // 4 for grid in grids) < token_ids.count(508):
            grids.append(io["image_grid_thw"][first_image + len(grids)])
        first_image += len(grids)
        last_patch = first_patch + sum(int(grid.prod()) for grid in grids)
        patches = Patches(io["pixel_values"][first_patch:last_patch])
        prompt = Prompt(token_ids, patches, np.array(grids, np.int64).reshape(-1, 3))
        requests.append(Request(prompt, (Turn(16),)))
        first_patch = last_patch
    answers = backend.generate(requests)
    backend.close()
    assert any(len(made.prompt.image_grid_thw) == 0 for made in requests)
    written = [answer[0].token_ids for answer in answers if not isinstance(answer, RejectedError)]
    assert np.array_equal(np.array(written), io["generated"][:, io["input_ids"].shape[1] :])


def test_drafts_are_those_of_the_transformers_engine(
    ours: TransformersEngine, cases: list[PreparedCase], together: list[Draft | RejectedError]
) -> None:
    expected = ours.draft(cases)
    assert [plain(result) for result in together] == [plain(result) for result in expected]
    drafts = [pair for pair in zip(together, expected, strict=True) if isinstance(pair[0], Draft)]
    assert len(drafts) >= 4
    for found, wanted in drafts:
        assert isinstance(found, Draft)
        assert isinstance(wanted, Draft)
        assert found.value_probabilities == pytest.approx(wanted.value_probabilities, abs=1e-4)
        assert found.report_score == pytest.approx(wanted.report_score, abs=1e-4)


def test_a_draft_does_not_depend_on_its_batch(
    engine: VllmEngine, cases: list[PreparedCase], together: list[Draft | RejectedError]
) -> None:
    alone = [engine.draft([case])[0] for case in cases[:4]]
    assert [plain(result) for result in alone] == [plain(result) for result in together[:4]]


def test_random_weights_write_nothing_but_the_lexicon(
    random_folder: Path, processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    cases = [noise_case(i, num_images=1 + i % 4, organ=(*ORGANS, None)[i % 8]) for i in range(64)]
    backend = VllmBackend(random_folder, processor, CPU)
    answers = backend.generate([request(processor, case, entities_turn(case)) for case in cases])
    backend.close()
    texts = set()
    for case, answer in zip(cases, answers, strict=True):
        assert not isinstance(answer, RejectedError)
        text = answer_text(processor, answer[0].token_ids)
        entities, _ = parse_generated(text, num_images=len(case.image_grid_thw))
        assert answer[0].ended
        assert case.organ_hint in (None, entities.organ)
        assert all(0 < p <= 1 for p in answer[0].value_probabilities.values())
        texts.add(text)
    assert len(texts) > 8


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_probabilities_are_those_after_the_grammar_and_before_the_temperature(
    engine: VllmEngine, processor: EchoVLMProcessor, noise_case: NoiseCase, temperature: float
) -> None:
    case = noise_case(0)
    asked = request(processor, case, entities_turn(case), sampling=Sampling(temperature, seed=1))
    engine.backend._core.submit(
        "one",
        asked.prompt.token_ids,
        asked.prompt,
        asked.turns[0],
        asked.sampling,
        end_ids=[processor.end_of_turn_id],
    )
    written: list[Written] = []
    while not (written and written[-1].finished):  # the first steps may wait for the grammar
        written += engine.backend._core.step()
    token_ids = [token_id for part in written for token_id in part.token_ids]
    steps = [{i: math.exp(p) for i, p in step.items()} for part in written for step in part.steps]
    assert all(sum(step.values()) == pytest.approx(1.0, abs=1e-4) for step in steps)
    text = answer_text(processor, token_ids)
    assert text.startswith('{"organ":"breast"')
    assert steps[0] == {token_ids[0]: pytest.approx(1.0)} | dict.fromkeys(steps[0].keys() - {token_ids[0]}, 0)


def test_sampling_follows_the_seed(
    engine: VllmEngine, processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    def say(seed: int) -> tuple[int, ...]:
        asked = request(processor, noise_case(0), Turn(20), sampling=Sampling(2.0, seed))
        (answers,) = engine.backend.generate([asked])
        assert not isinstance(answers, RejectedError)
        return answers[0].token_ids

    assert say(1) == say(1)
    assert len({say(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda prompt: replace(prompt, patches=cut_short(prompt.patches)), Reason.NOT_AN_IMAGE),
        (
            lambda prompt: replace(prompt, patches=not_numbers(prompt.patches)),
            Reason.NOT_AN_IMAGE,
        ),
        (lambda prompt: replace(prompt, token_ids=prompt.token_ids[30:]), Reason.NOT_AN_IMAGE),
        (lambda prompt: replace(prompt, token_ids=prompt.token_ids * 40), Reason.TOO_MANY_TOKENS),
    ],
    ids=["cut-patches", "not-a-number", "cut-tokens", "too-long"],
)
def test_a_request_that_cannot_be_answered_leaves_the_others_alone(
    engine: VllmEngine,
    processor: EchoVLMProcessor,
    cases: list[PreparedCase],
    spoil: Callable[[Prompt], Prompt],
    reason: Reason,
) -> None:
    good = [request(processor, case, Turn(24)) for case in cases[:2]]
    spoiled = Request(spoil(good[0].prompt), good[0].turns)
    first, bad, second = engine.backend.generate([good[0], spoiled, good[1]])
    assert isinstance(bad, RejectedError)
    assert bad.reason is reason
    assert [tokens(first), tokens(second)] == [tokens(answers) for answers in engine.backend.generate(good)]


def test_a_batch_on_which_vllm_fails_is_drafted_in_parts(
    engine: VllmEngine,
    cases: list[PreparedCase],
    together: list[Draft | RejectedError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, calls = engine.backend._core.step, iter(range(10**6))

    def fails_once() -> object:
        if next(calls) == 20:
            raise RuntimeError("out of memory")
        return step()

    monkeypatch.setattr(engine.backend._core, "step", fails_once)
    assert [plain(result) for result in engine.draft(cases[:4])] == [plain(r) for r in together[:4]]


def test_a_streamed_answer_is_the_whole_one_and_can_be_stopped(
    engine: VllmEngine, processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    asked = request(processor, noise_case(0), Turn(40))
    (whole,) = engine.backend.generate([asked])
    streamed = [token.token_id for tokens in engine.backend.stream(asked) for token in tokens]
    assert tokens(whole) == [tuple(streamed)]
    stream = engine.backend.stream(asked)
    assert [token.token_id for _, told in zip(range(5), stream, strict=False) for token in told] == streamed[
        :5
    ]
    stream.close()
    assert engine.draft([]) == []
    assert engine.load() == (0, 0)


def broken_copy(folder: Path, target: Path, change: Callable[[dict[str, object]], object]) -> Path:
    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize(
    "key", ["model.layers.0.coefficient.bias", "model.layers.1.moe.experts.2.up_proj.weight"]
)
def test_a_folder_without_one_of_its_weights_is_refused(tmp_path: Path, key: str) -> None:
    folder = broken_copy(nano.folder(), tmp_path / "cut", lambda weights: weights.pop(key))
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        VllmEngine(folder, CPU)


def test_vllm_itself_refuses_it_too(tmp_path: Path) -> None:
    key = "model.layers.0.coefficient.bias"
    folder = broken_copy(nano.folder(), tmp_path / "cut", lambda weights: weights.pop(key))
    with pytest.raises(CheckpointError, match=r"layers\.0\.coefficient\.bias"):
        VllmCore(folder, CPU, max_pixels=37_632, max_tokens=512, has_tokenizer=True)


def test_auto_takes_vllm_where_it_has_kernels_for_the_model(tmp_path: Path) -> None:
    chosen = open_engine(nano.folder(), CPU)
    assert isinstance(chosen, VllmEngine)
    chosen.backend.close()
    transformers = CPU.model_copy(update={"engine": "transformers"})
    assert isinstance(open_engine(nano.folder(), transformers), TransformersEngine)
    narrow = FIXTURES / "echovlm-tiny"  # heads of 16
    with pytest.raises(ConfigError, match="heads"):
        VllmBackend(narrow, None, CPU)


def test_memory_that_holds_no_conversation_is_refused() -> None:
    with pytest.raises(ConfigError, match="settings"):
        VllmEngine(nano.folder(), CPU.model_copy(update={"kv_cache_gib": 0.001}))
