from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion as PublicCompletion

from sonoloop.model.chat import ChatResult, TokenLogprob
from sonoloop.model.openai.answer import Identity
from sonoloop.model.openai.batch import BatchAnswer, BatchLine, BatchResponse
from sonoloop.model.openai.conversation import completion, options
from sonoloop.model.openai.errors import ApiError
from sonoloop.model.openai.request import ChatRequest

BODY = {"model": "m", "messages": [{"role": "user", "content": "describe it"}], "max_tokens": 9}
IDENTITY = Identity(id="chatcmpl-1", created=1, model="nano/1", system_fingerprint="fp_1")


def line(**fields: Any) -> bytes:
    whole = {"custom_id": "a-1", "method": "POST", "url": "/v1/chat/completions", "body": BODY, **fields}
    return json.dumps(whole).encode()


def test_a_line_holds_a_request() -> None:
    parsed = BatchLine.parse(line())
    assert parsed.custom_id == "a-1"
    assert parsed.chat() == ChatRequest.parse(json.dumps(BODY).encode())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"custom_id": ""}, "custom_id"),
        ({"method": "GET"}, "method"),
        ({"url": "/v1/embeddings"}, "url"),
        ({"body": "Jane Doe"}, "body"),
    ],
)
def test_a_line_that_is_none_is_refused_without_its_value(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        BatchLine.parse(line(**fields))
    assert caught.value.param == param
    assert "Jane" not in caught.value.message


def test_a_bad_body_leaves_its_line_readable() -> None:
    parsed = BatchLine.parse(line(body={**BODY, "temperature": 9}))
    with pytest.raises(ApiError) as caught:
        parsed.chat()
    assert (parsed.custom_id, caught.value.param) == ("a-1", "temperature")


def test_an_answers_line_is_read_by_the_public_client() -> None:
    impossible = TokenLogprob("a", b"a", float("-inf"), (("é", "é".encode()[:1], -0.5),))
    result = ChatResult("a", 7, 1, "stop", (impossible,))
    body = completion(IDENTITY, [result, result], logprobs=True)
    answer = BatchAnswer(
        id="batch_req_1",
        custom_id="a-1",
        response=BatchResponse(status_code=200, request_id="r", body=body),
    )
    written = json.loads(answer.model_dump_json())
    read = PublicCompletion.model_validate(written["response"]["body"])
    assert read.usage is not None
    assert (read.usage.prompt_tokens, read.usage.completion_tokens) == (7, 2)
    logprobs = read.choices[1].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].logprob == -9999
    assert logprobs.content[0].top_logprobs[0].bytes == [0xC3]


def test_each_of_n_answers_has_the_next_seed_at_the_ends_of_the_range_too() -> None:
    for seed in (0, -(2**63), 2**63 - 1):
        chat = ChatRequest.parse(json.dumps({**BODY, "n": 3, "seed": seed}).encode())
        assert [way.seed for way in options(chat, max_tokens=20, seed=5)] == [seed, seed + 1, seed + 2]
    free = ChatRequest.parse(json.dumps({**BODY, "n": 2}).encode())
    assert [way.seed for way in options(free, max_tokens=20, seed=5)] == [5, 6]
