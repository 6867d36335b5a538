"""Options of an answer: stop strings, JSON schemas, nucleus, log-probabilities; alone and in company."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from sonoloop.model import nano
from sonoloop.model.chat import ChatMessage, ChatOptions, ChatPiece, ChatResult
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.open_engine import LoadedEngine, open_engine
from sonoloop.model.structured import MAX_SCHEMA_CHARS, JsonSpec

QUESTION: list[ChatMessage] = [{"role": "user", "content": [{"type": "text", "text": "Write the report."}]}]
ANIMAL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cyst", "nodule"]},
        "size_mm": {"type": "integer", "minimum": 1, "maximum": 99},
        "note": {"type": "string", "maxLength": 12},
        "sides": {"type": "array", "items": {"enum": ["left", "right"]}, "maxItems": 2},
    },
    "required": ["kind", "size_mm", "note", "sides"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> LoadedEngine:
    """vLLM's where it is installed (``make test-vllm``), else transformers'."""
    return open_engine(nano.folder(), EngineConfig(device="cpu", dtype="float32", kv_cache_gib=0.25))


def streamed(engine: LoadedEngine, options: ChatOptions) -> tuple[list[ChatPiece], ChatResult]:
    stream, pieces = engine.chat_stream(QUESTION, options), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as stop:
            return pieces, stop.value


def test_an_answer_ends_before_a_stop_string_wherever_tokens_begin_and_end(engine: LoadedEngine) -> None:
    drawn = ChatOptions(max_new_tokens=60, temperature=1.0, seed=3, top_logprobs=0)
    whole = engine.chat(QUESTION, drawn)
    borders, at = set(), 0
    for token in whole.logprobs:
        at += len(token.utf8)
        borders.add(at)
    assert at == len(whole.text) > 100  # ASCII: bytes are characters
    for begin in range(8, len(whole.text) - 12, 23):
        stop = whole.text[begin : begin + 8]
        assert borders & set(range(begin + 1, begin + 8))  # across a border
        expected = whole.text[: whole.text.index(stop)]
        options = ChatOptions(60, 1.0, seed=3, stop=("never said", stop), top_logprobs=0)
        pieces, result = streamed(engine, options)
        assert (result.text, result.finish_reason) == (expected, "stop")
        assert "".join(piece.text for piece in pieces) == expected
        assert result.completion_tokens <= whole.completion_tokens
        kept = b"".join(token.utf8 for token in result.logprobs)
        assert kept.startswith(expected.encode())
        assert tuple(token for piece in pieces for token in piece.logprobs) == result.logprobs
        assert whole.text.encode().startswith(kept)


def test_what_only_looks_like_a_stop_string_is_told_at_last(engine: LoadedEngine) -> None:
    options = ChatOptions(max_new_tokens=20)
    whole = engine.chat(QUESTION, options)
    stops = tuple(whole.text[-size:] + "\x00" for size in (1, 3, 9))
    pieces, result = streamed(engine, ChatOptions(max_new_tokens=20, stop=stops))
    assert result == whole
    assert "".join(piece.text for piece in pieces) == whole.text


@pytest.mark.parametrize("temperature", [1e-9, 5e-324])
def test_the_smallest_temperature_takes_the_most_likely_token(
    engine: LoadedEngine, temperature: float
) -> None:
    greedy = engine.chat(QUESTION, ChatOptions(20))
    assert engine.chat(QUESTION, ChatOptions(20, temperature, seed=7)).text == greedy.text


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_obeys_its_schema(engine: LoadedEngine, temperature: float) -> None:
    schema = json.dumps(ANIMAL)
    seen = set()
    for seed in range(6):
        result = engine.chat(QUESTION, ChatOptions(200, temperature, seed=seed, schema=schema))
        jsonschema.validate(json.loads(result.text), ANIMAL)
        assert result.finish_reason == "stop"
        seen.add(result.text)
    assert (len(seen) > 1) == (temperature > 0)


def test_an_empty_schema_is_any_object(engine: LoadedEngine) -> None:
    pieces, result = streamed(engine, ChatOptions(max_new_tokens=30, schema="{}"))
    assert result.text.startswith("{")
    assert "".join(piece.text for piece in pieces) == result.text


def test_an_answer_without_any_choice_is_written_whole(engine: LoadedEngine) -> None:
    said = {"kind": "Zyste – 囊肿", "sure": True}
    options = ChatOptions(max_new_tokens=200, schema=json.dumps({"const": said}), top_logprobs=3)
    pieces, result = streamed(engine, options)
    assert json.loads(result.text) == said
    assert result.finish_reason == "stop"
    assert b"".join(token.utf8 for token in result.logprobs).decode() == result.text
    assert {token.logprob for token in result.logprobs} == {0.0}
    assert tuple(token for piece in pieces for token in piece.logprobs) == result.logprobs


@pytest.mark.parametrize(
    "schema",
    [
        "Jane Doe",
        "[1]",
        "[" * 100_000,
        '{"type": "Jane Doe"}',
        '{"not": {"const": "Jane Doe"}}',
        '{"$ref": "http://127.0.0.1/Jane-Doe"}',
        json.dumps({"description": "Jane Doe" * MAX_SCHEMA_CHARS}),
        '{"items":' * 80 + "{}" + "}" * 80,
    ],
    ids=["no-json", "no-object", "hostile", "type", "unknown", "remote", "long", "deep"],
)
def test_a_schema_that_cannot_be_used_is_refused_before_anything_runs_and_not_quoted(
    engine: LoadedEngine, schema: str
) -> None:
    with pytest.raises(ValueError, match="JSON schema") as caught:
        engine.chat_stream(QUESTION, ChatOptions(schema=schema))
    assert "Jane" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert engine.load() == (0, 0)


def test_a_schema_cannot_switch_the_grammar_engine(engine: LoadedEngine) -> None:
    asked = json.dumps({"const": [1, 2], "x-guidance": {"item_separator": " ; "}})
    assert engine.chat(QUESTION, ChatOptions(schema=asked)).text == "[1,2]"
    assert "x-guidance" not in JsonSpec(asked).schema()


@pytest.mark.parametrize("schema", [None, json.dumps(ANIMAL)])
def test_log_probabilities_are_told_most_likely_first(engine: LoadedEngine, schema: str | None) -> None:
    greedy = engine.chat(QUESTION, ChatOptions(30, schema=schema, top_logprobs=20))
    drawn = engine.chat(QUESTION, ChatOptions(30, 1.5, schema=schema, top_logprobs=5))
    assert b"".join(token.utf8 for token in greedy.logprobs).decode() == greedy.text
    for result, most in ((greedy, 20), (drawn, 5)):
        for token in result.logprobs:
            values = [log_prob for _, _, log_prob in token.top]
            assert 1 <= len(values) <= most
            assert values == sorted(values, reverse=True)
            assert sum(map(math.exp, values)) <= 1 + 1e-4
            assert token.logprob <= values[0] + 1e-6
            assert token.token == token.utf8.decode(errors="replace")
    assert all(token.logprob == pytest.approx(token.top[0][2], abs=1e-6) for token in greedy.logprobs)
    assert all(token.utf8 == token.top[0][1] for token in greedy.logprobs)
    plain = engine.chat(QUESTION, ChatOptions(30, schema=schema))
    assert (plain.text, plain.logprobs) == (greedy.text, ())


def test_a_small_nucleus_is_the_most_likely_answer(engine: LoadedEngine) -> None:
    greedy = engine.chat(QUESTION, ChatOptions(30))
    assert engine.chat(QUESTION, ChatOptions(30, 1.5, top_p=1e-6, seed=4)) == greedy
    assert engine.chat(QUESTION, ChatOptions(30, 1.5, top_p=1.0, seed=4)) != greedy


def test_answers_of_all_kinds_are_the_same_in_company(engine: LoadedEngine) -> None:
    kinds = [
        ChatOptions(40),
        ChatOptions(40, 1.2, top_p=0.9, seed=1, top_logprobs=2),
        ChatOptions(120, schema=json.dumps(ANIMAL)),
        ChatOptions(120, 1.3, seed=2, schema=json.dumps(ANIMAL), top_logprobs=1),
        ChatOptions(40, 1.0, seed=3, stop=(" the ", "cm")),
    ]
    alone = [engine.chat(QUESTION, options) for options in kinds]
    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(lambda options: engine.chat(QUESTION, options), kinds * 4))
    for one, other in zip(alone * 4, together, strict=True):
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        values = [[token.logprob for token in result.logprobs] for result in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)
    assert engine.load() == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"stop": ("",)},
        {"top_logprobs": 21},
    ],
)
def test_options_outside_their_ranges_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ChatOptions(**wrong)
