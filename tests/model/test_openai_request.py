from __future__ import annotations

import json
from typing import Any

import pytest

from sonoloop.model.openai.errors import ApiError
from sonoloop.model.openai.request import ChatRequest, ImagePart, TextPart

USER = {"role": "user", "content": "hello"}
FILE = {"type": "file", "file": {"file_id": "data:image/png;base64,AA=="}}


def parsed(**fields: Any) -> ChatRequest:
    return ChatRequest.parse(json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parsed(**fields)
    return caught.value


def test_plain_text_and_parts_mean_the_same() -> None:
    plain = parsed()
    parts = parsed(messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}])
    assert plain == parts
    assert plain.messages[0].content == [TextPart(type="text", text="hello")]


def test_an_image_part_keeps_its_uri() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}}
    (found,) = parsed(messages=[{"role": "user", "content": [part]}]).messages[0].content
    assert isinstance(found, ImagePart)
    assert found.image_url.url == "data:image/png;base64,AA=="


def test_an_answer_of_the_openai_client_can_be_sent_back_as_history() -> None:
    answer = {"role": "assistant", "content": "a cyst", "refusal": None, "tool_calls": None, "audio": None}
    assert [turn.role for turn in parsed(messages=[USER, answer, USER]).messages] == [
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"top_logprobs": 2}, None),
        ({"stream_options": {"include_usage": True}}, None),
        ({"messages": [{"role": "user", "content": [FILE]}]}, "messages.0.content.0.file.file.file_id"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.json_schema"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop.0"),
        ({"n": True}, "n"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": "4"}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"seed": 2**63}, "seed"),
        ({"model": None}, "model"),
    ],
)
def test_an_impossible_value_is_a_bad_request_that_names_the_field(
    fields: dict[str, Any], param: str | None
) -> None:
    err = refusal(**fields)
    assert (err.status, err.param) == (400, param)


def test_a_parameter_without_effect_here_is_refused_rather_than_ignored() -> None:
    err = refusal(tools=[{"type": "function"}])
    assert err.code == "unsupported_parameter"
    assert "tools" in err.message
    assert "Jane" not in refusal(**{"Jane Doe": 1}).message


def test_neutral_values_of_unsupported_parameters_are_taken() -> None:
    assert parsed(n=1, top_p=1.0, presence_penalty=0, logprobs=None, tools=None).temperature == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}'],
)
def test_a_body_that_is_no_request_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        ChatRequest.parse(body)
    assert caught.value.status == 400


def test_a_refusal_never_repeats_what_was_sent() -> None:
    secret = "Jane Doe 1970-01-01"
    fields: list[dict[str, Any]] = [
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": [{"role": "user", "content": [{"type": secret}]}]},
        {"messages": secret},
        {"temperature": secret},
    ]
    for one in fields:
        err = refusal(**one)
        assert secret not in err.message
        assert err.__suppress_context__


def test_the_token_limit_is_the_wish_up_to_what_the_server_gives() -> None:
    assert parsed().token_limit(100) == 100
    assert parsed(max_tokens=7).token_limit(100) == 7
    assert parsed(max_tokens=7, max_completion_tokens=9).token_limit(100) == 9
    with pytest.raises(ApiError, match="max_tokens up to 100, found 101"):
        parsed(max_tokens=101).token_limit(100)
