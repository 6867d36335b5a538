from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from spoiled import cut_short, not_numbers

from sonoloop.model import nano
from sonoloop.model.chat import ChatMessage, ChatOptions
from sonoloop.model.draft import Draft
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.expert_usage import expert_usage
from sonoloop.model.open_engine import LoadedEngine, open_engine
from sonoloop.model.patches import NO_PATCHES, Patches
from sonoloop.model.prepared import PreparedCase
from sonoloop.model.structured import RowSpec
from sonoloop.platform.errors import Reason, RejectedError

NoiseCase = Callable[..., PreparedCase]
CPU = EngineConfig(device="cpu", dtype="float32", max_report_tokens=192)


@pytest.fixture(scope="module")
def engine() -> LoadedEngine:
    """vLLM's where it is installed (``make test-vllm``), else transformers'."""
    return open_engine(nano.folder(), CPU)


@pytest.fixture(scope="module")
def cases(noise_case: NoiseCase) -> list[PreparedCase]:
    return [
        noise_case(0),
        noise_case(1, num_images=2),
        noise_case(2, organ="thyroid"),
        noise_case(3, organ=None, num_images=3),
        noise_case(4, organ="liver"),
    ]


@pytest.fixture(scope="module")
def together(engine: LoadedEngine, cases: list[PreparedCase]) -> list[Draft | RejectedError]:
    return engine.draft(cases)


def _plain(result: Draft | RejectedError) -> object:
    """What must not depend on the batch; probabilities are compared apart, within rounding."""
    if isinstance(result, RejectedError):
        return (result.reason, result.detail)
    return replace(result, value_probabilities={}, report_score=0.0)


def test_every_case_gets_one_answer_in_order(
    cases: list[PreparedCase], together: Sequence[Draft | RejectedError]
) -> None:
    assert len(together) == len(cases)
    drafts = [(case, draft) for case, draft in zip(cases, together, strict=True) if isinstance(draft, Draft)]
    assert len(drafts) >= 3
    for case, draft in drafts:
        assert case.organ_hint in (None, draft.entities.organ)
        assert set(draft.value_probabilities) <= set(draft.entities.flat())
        assert "lesion" in draft.value_probabilities
        assert 0 < draft.confidence <= 1
        assert 0 < draft.report_score <= 1
        assert draft.num_tokens > 10
        assert draft.findings
        assert draft.impression


def test_a_batch_drafts_each_case_as_if_it_were_alone(
    engine: LoadedEngine, cases: list[PreparedCase], together: list[Draft | RejectedError]
) -> None:
    alone = [engine.draft([case])[0] for case in cases]
    assert [_plain(result) for result in alone] == [_plain(result) for result in together]
    for one, other in zip(alone, together, strict=True):
        if isinstance(one, Draft) and isinstance(other, Draft):
            assert one.value_probabilities == pytest.approx(other.value_probabilities, abs=1e-4)
            assert one.report_score == pytest.approx(other.report_score, abs=1e-4)


def test_drafting_twice_gives_the_same(
    engine: LoadedEngine, cases: list[PreparedCase], together: list[Draft | RejectedError]
) -> None:
    assert [_plain(result) for result in engine.draft(cases)] == [_plain(result) for result in together]


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (lambda case: replace(case, patches=cut_short(case.patches)), Reason.NOT_AN_IMAGE),
        (lambda case: replace(case, patches=not_numbers(case.patches)), Reason.NOT_AN_IMAGE),
        (
            lambda case: replace(case, patches=NO_PATCHES, image_grid_thw=case.image_grid_thw[:0]),
            Reason.NO_PIXELS,
        ),
        (
            lambda case: replace(
                case,
                patches=Patches.joined([case.patches] * 200),
                image_grid_thw=np.tile(case.image_grid_thw, (200, 1)),
            ),
            Reason.TOO_MANY_TOKENS,
        ),
    ],
    ids=["cut-patches", "not-a-number", "no-image", "too-many-images"],
)
def test_a_poison_case_is_rejected_and_the_others_are_not_touched(
    engine: LoadedEngine,
    cases: list[PreparedCase],
    together: list[Draft | RejectedError],
    poison: Callable[[PreparedCase], PreparedCase],
    reason: Reason,
) -> None:
    results = engine.draft([cases[0], poison(cases[1]), cases[2]])
    assert isinstance(results[1], RejectedError)
    assert results[1].reason is reason
    assert [_plain(results[0]), _plain(results[2])] == [_plain(together[0]), _plain(together[2])]


def test_a_batch_that_fails_as_a_whole_is_drafted_in_halves(
    engine: LoadedEngine,
    cases: list[PreparedCase],
    together: list[Draft | RejectedError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = engine.backend.live
    step, sizes = live._stepper.step, []

    def short_of_memory() -> object:
        if len(live._inside) > 2:
            sizes.append(len(live._inside))
            raise RuntimeError("out of memory")
        return step()

    monkeypatch.setattr(live._stepper, "step", short_of_memory)
    assert [_plain(result) for result in engine.draft(cases)] == [_plain(r) for r in together]
    assert sizes == [5]


def test_a_case_that_the_model_fails_on_may_be_tried_again(
    engine: LoadedEngine, cases: list[PreparedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> object:
        raise RuntimeError("a kernel failed on patient text")

    monkeypatch.setattr(engine.backend.live._stepper, "step", broken)
    results = engine.draft(cases[:2])
    assert all(isinstance(result, RejectedError) and result.retryable for result in results)
    assert {result.reason for result in results if isinstance(result, RejectedError)} == {Reason.MODEL_FAILED}
    assert "patient" not in str(results[0])


def test_a_report_that_does_not_parse_is_rejected_without_its_text(
    random_folder: Path, cases: list[PreparedCase]
) -> None:
    babbling = open_engine(random_folder, CPU.model_copy(update={"max_report_tokens": 12}))
    for result in babbling.draft(cases[:3]):
        assert isinstance(result, RejectedError)
        assert result.reason is Reason.INVALID_OUTPUT
        assert not result.retryable
        assert len(result.detail) < 150


def test_an_empty_batch_has_an_empty_answer(engine: LoadedEngine) -> None:
    assert engine.draft([]) == []


def _question(text: str = "Write the report.") -> list[ChatMessage]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150), dtype=np.uint8))
    return [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}
    ]


def test_a_streamed_answer_adds_up_to_the_whole_one(engine: LoadedEngine) -> None:
    whole = engine.chat(_question(), ChatOptions(max_new_tokens=40))
    pieces = []
    stream = engine.chat_stream(_question(), ChatOptions(max_new_tokens=40))
    while True:
        try:
            pieces.append(next(stream).text)
        except StopIteration as stop:
            streamed = stop.value
            break
    assert streamed == whole
    assert "".join(pieces) == whole.text
    assert 0 < whole.completion_tokens <= 40
    assert whole.prompt_tokens > 10


def test_an_answer_cut_at_the_limit_says_so(engine: LoadedEngine) -> None:
    result = engine.chat(_question(), ChatOptions(max_new_tokens=3))
    assert (result.finish_reason, result.completion_tokens) == ("length", 3)


def test_sampling_follows_the_seed(engine: LoadedEngine) -> None:
    def say(seed: int) -> str:
        return engine.chat(_question(), ChatOptions(max_new_tokens=30, temperature=2.0, seed=seed)).text

    assert say(1) == say(1)
    assert len({say(seed) for seed in range(4)}) > 1


def test_closing_a_stream_takes_its_row_out_at_once(engine: LoadedEngine) -> None:
    stream = engine.chat_stream(_question(), ChatOptions(max_new_tokens=1500, temperature=2.0, seed=1))
    next(stream)
    assert engine.load() == (1, 0)
    stream.close()
    assert engine.load() == (0, 0)
    thread = engine.backend.live._thread
    if thread is not None:  # it may be in its last step
        thread.join(2.0)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": [{"type": "text", "text": "hello"}]}],
        [{"role": "robot", "content": [{"type": "text", "text": "hello"}]}],
        [{"role": "user", "content": [{"type": "image"}]}],
    ],
    ids=["empty", "not-the-users-turn", "unknown-role", "image-without-picture"],
)
def test_a_conversation_of_another_form_is_refused(engine: LoadedEngine, messages: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        engine.chat_stream(messages)  # type: ignore[arg-type]


def test_a_conversation_that_is_too_long_is_rejected(engine: LoadedEngine) -> None:
    with pytest.raises(RejectedError) as caught:
        engine.chat(_question("word " * 9000))
    assert caught.value.reason is Reason.TOO_MANY_TOKENS


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        EngineConfig(max_report_token=5)  # type: ignore[call-arg]


def test_automatic_dtype_follows_the_device() -> None:
    assert str(EngineConfig(device="cpu").resolved_dtype()) == "torch.float32"
    assert str(EngineConfig(device="cuda").resolved_dtype()) == "torch.bfloat16"


def test_the_report_is_kept_in_memory_while_the_entities_are_written(
    engine: LoadedEngine, cases: list[PreparedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(engine, TransformersEngine):
        pytest.skip("looks into the transformers backend")
    fed: list[int] = []
    runner = engine.backend._runner
    step = runner.step
    monkeypatch.setattr(runner, "step", lambda *inputs: (fed.append(len(inputs[0])), step(*inputs))[1])
    (draft,) = engine.draft(cases[:1])
    assert isinstance(draft, Draft)
    prompt = len(engine._request(cases[0]).prompt.token_ids)
    second = len(engine._request(cases[0]).turns[1].text_ids)
    # everything is fed once: the last token written need not be, and forced tokens come without asking
    assert sum(fed) <= prompt + second + draft.num_tokens
    assert len(fed) < draft.num_tokens


def test_an_engine_counts_which_experts_its_drafts_use(
    engine: LoadedEngine, cases: list[PreparedCase], together: list[Draft | RejectedError]
) -> None:
    if not isinstance(engine, TransformersEngine):
        pytest.skip("vLLM does not tell which experts it used")
    with expert_usage(engine.backend.model) as usage:
        results = engine.draft(cases)
    assert [_plain(result) for result in results] == [_plain(result) for result in together]
    assert usage.shares().sum(dim=1).tolist() == pytest.approx([1.0] * 4)


def test_a_draft_counts_the_experts_of_its_own_tokens_whatever_its_company(
    engine: LoadedEngine, cases: list[PreparedCase]
) -> None:
    if not isinstance(engine, TransformersEngine):
        assert engine.backend.new_usage() is None
        return

    def counted() -> list[list[int]]:
        usage = engine.backend.new_usage()
        for _ in engine.draft_stream(cases[0], usage):
            pass
        counts: list[list[int]] = usage.counts().tolist()
        return counts

    counted()  # keeps the prompt's beginning, which is not fed again
    with expert_usage(engine.backend.model) as all_of_them:
        alone = counted()
    assert alone == all_of_them.counts().tolist()
    with ThreadPoolExecutor(1) as pool:
        company = pool.submit(engine.draft, cases)
        assert counted() == alone
        company.result()


def test_a_conversation_that_outgrows_the_memory_budget_is_rejected_alone(cases: list[PreparedCase]) -> None:
    small = TransformersEngine(nano.folder(), CPU.model_copy(update={"kv_cache_gib": 0.002}))
    room = small.backend.context_tokens
    assert 200 < room < 2048
    results = small.draft([cases[0], cases[3]])
    assert all(isinstance(result, Draft) or result.reason is Reason.TOO_MANY_TOKENS for result in results)
    with pytest.raises(RejectedError, match="at most"):
        small.chat(_question("word " * room))


def test_a_chinese_report_is_asked_for_in_chinese_and_its_entities_stay_english(
    cases: list[PreparedCase],
) -> None:
    chinese = TransformersEngine(nano.folder(), CPU.model_copy(update={"language": "zh"}))
    request = chinese._request(cases[0])
    text = chinese.processor.tokenizer.decode(request.prompt.token_ids)
    assert "超声所见" in text
    assert "乳腺" in text
    assert request.turns[1].constraint == RowSpec("breast", 1)
