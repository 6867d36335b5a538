"""The public ``openai`` client against the real door and a real, tiny engine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from tests.serve.doors import API_KEY, NAME, VERSION, app_of, listening

from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.serve.config import ServeConfig, UploadsConfig

QUESTION: list[Any] = [{"role": "user", "content": "describe it"}]


class Finding(BaseModel):
    organ: str
    size_mm: int


@pytest.fixture(scope="module")
def url(untrained_folder: Path) -> Iterator[str]:
    engine = TransformersEngine(untrained_folder, EngineConfig(device="cpu", max_prompt_tokens=400))
    uploads = UploadsConfig(max_files=3)
    config = ServeConfig(max_ongoing=8, max_images=3, max_tokens=200, max_choices=3, uploads=uploads)
    with listening(app_of(engine, config)) as address:
        yield address


def client_of(url: str, key: str = API_KEY) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60, http_client=http)


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_of(url) as it:
        yield it


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(
        **{"model": NAME, "messages": QUESTION, "max_tokens": 12, "temperature": 0, **fields}
    )


def with_images(*urls: str) -> list[Any]:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "describe it"}]}]


def test_a_model_whose_name_has_a_slash_can_be_looked_up(client: openai.OpenAI) -> None:
    assert client.models.retrieve(VERSION) == client.models.retrieve(NAME) == client.models.list().data[0]
    assert client.models.retrieve(VERSION).id == VERSION
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("untrained/other")


def test_every_answer_names_the_version_and_its_weights(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True))
    assert {(part.model, part.system_fingerprint) for part in (whole, *chunks)} == {
        (VERSION, "fp_0123456789ab")
    }


def test_n_answers_have_their_own_seeds_and_one_prompt(client: openai.OpenAI) -> None:
    drawn = {"temperature": 1.5, "max_tokens": 20}
    answer = ask(client, n=3, seed=7, **drawn)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert texts == [ask(client, seed=7 + i, **drawn).choices[0].message.content for i in range(3)]
    assert len(set(texts)) == 3
    assert answer.usage.completion_tokens == 60
    assert answer.usage.prompt_tokens == ask(client).usage.prompt_tokens


def test_streams_of_n_answers_are_told_apart(client: openai.OpenAI) -> None:
    drawn = {"temperature": 1.5, "n": 2, "seed": 3}
    whole = ask(client, **drawn)
    texts, ends = ["", ""], {}
    usage = None
    for chunk in ask(client, **drawn, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == {0: "length", 1: "length"}
    assert usage == whole.usage


def test_log_probabilities_spell_the_answer_streamed_or_not(client: openai.OpenAI) -> None:
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert len(tokens) == 12
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert math.isclose(token.logprob, token.top_logprobs[0].logprob, abs_tol=1e-4), "greedy"
    chunks = list(ask(client, logprobs=True, top_logprobs=3, stream=True))
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token for part in parts if part for token in part.content] == tokens


def test_log_probabilities_come_only_where_asked_for(client: openai.OpenAI) -> None:
    assert ask(client).choices[0].logprobs is None
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_an_answer_ends_before_a_stop_and_says_so(client: openai.OpenAI) -> None:
    text = ask(client, max_tokens=40).choices[0].message.content
    stop = text[len(text) // 2 :][:4]
    for given in (stop, ["never written", stop]):
        choice = ask(client, max_tokens=40, stop=given).choices[0]
        assert (choice.message.content, choice.finish_reason) == (text[: text.index(stop)], "stop")
    chunks = list(ask(client, max_tokens=40, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[: text.index(stop)]


def test_a_small_nucleus_takes_the_most_likely_token(client: openai.OpenAI) -> None:
    greedy = ask(client).choices[0].message.content
    assert ask(client, temperature=1, top_p=1e-6, seed=1).choices[0].message.content == greedy


def test_a_schema_is_obeyed_and_parsed_by_the_client(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=NAME, messages=QUESTION, max_tokens=200, response_format=Finding, temperature=1, seed=0
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Finding)


def test_json_objects_are_json_objects(client: openai.OpenAI) -> None:
    wanted = {"type": "json_object"}
    for seed in range(3):
        choice = ask(client, response_format=wanted, max_tokens=200, temperature=1, seed=seed).choices[0]
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
        else:
            assert choice.message.content.startswith("{")


def test_a_schema_that_makes_no_grammar_is_a_bad_request(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/nowhere/Jane-Doe"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, response_format=wanted, stream=stream)
        assert "Jane" not in str(caught.value)


def test_an_upload_stands_for_its_image_in_both_forms(
    client: openai.OpenAI, picture: Callable[..., bytes], data_uri: Callable[[bytes], str]
) -> None:
    first, second = picture(size=(112, 84), seed=1), picture(size=(84, 112), seed=2)
    file = client.files.create(file=("Jane Doe.png", first), purpose="vision")
    by_data = ask(client, messages=with_images(data_uri(first), data_uri(second)))
    by_url = ask(client, messages=with_images(file.id, data_uri(second)))
    mixed: list[Any] = with_images(data_uri(second))
    mixed[0]["content"].insert(0, {"type": "file", "file": {"file_id": file.id}})
    by_id = ask(client, messages=mixed)
    assert by_data.choices == by_url.choices == by_id.choices
    assert by_data.usage == by_url.usage == by_id.usage
    client.files.delete(file.id)


def test_uploads_can_be_listed_looked_up_and_deleted(
    client: openai.OpenAI, picture: Callable[..., bytes]
) -> None:
    made = [
        client.files.create(file=(f"Jane Doe {i}.png", picture(seed=i)), purpose="vision") for i in range(3)
    ]
    assert {file.filename for file in made} == {"image"}
    assert made[0].bytes == len(picture(seed=0))
    assert made[0].expires_at is not None
    assert made[0].expires_at - made[0].created_at == 3600
    assert client.files.retrieve(made[1].id) == made[1]
    assert [file.id for file in client.files.list(order="asc", limit=1)] == [file.id for file in made]
    assert list(client.files.list(purpose="batch")) == []
    for file in made:
        assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made[1].id)
    with pytest.raises(openai.NotFoundError):
        ask(client, messages=with_images(made[1].id))
    assert list(client.files.list()) == []


def test_more_uploads_than_allowed_are_sent_away_until_there_is_room(
    client: openai.OpenAI, picture: Callable[..., bytes]
) -> None:
    kept = [client.files.create(file=picture(seed=i), purpose="vision") for i in range(3)]
    with pytest.raises(openai.RateLimitError) as caught:
        client.files.create(file=picture(seed=3), purpose="vision")
    assert int(caught.value.response.headers["retry-after"]) > 0
    client.files.delete(kept.pop().id)
    kept.append(client.files.create(file=picture(seed=3), purpose="vision"))
    for file in kept:
        client.files.delete(file.id)


def test_what_is_no_image_is_not_kept(client: openai.OpenAI) -> None:
    for fields in (
        {"file": b"<html>Jane Doe</html>", "purpose": "vision"},
        {"file": b"{}", "purpose": "batch"},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.create(**fields)  # type: ignore[arg-type]
        assert "Jane" not in str(caught.value)
    assert list(client.files.list()) == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"n": 4}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"top_logprobs": 2}, None),
        ({"max_completion_tokens": 201}, "max_completion_tokens"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    client: openai.OpenAI, fields: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)
    assert caught.value.param == param
    assert next(iter(fields)) in str(caught.value)


def test_each_kind_of_error_is_the_clients_own(url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ask(client, model="gpt-9")
    assert missing.value.code == "model_not_found"
    with client_of(url, "wrong") as stranger, pytest.raises(openai.AuthenticationError):
        ask(stranger)
    with pytest.raises(openai.BadRequestError) as too_long:
        ask(client, messages=[{"role": "user", "content": "echo " * 2000}])
    assert too_long.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"model":"m","n":' + b"9" * 5000 + b"}",
        b'{"model":"m","temperature":NaN}',
        b'{"model":"m","temperature":1e999}',
        b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"m","Jane Doe":1}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"Jane Doe"}]}]}',
    ],
)
def test_a_hostile_body_is_a_bad_request_that_quotes_nothing(url: str, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    response = httpx.post(
        f"{url}/v1/chat/completions", content=body, headers=headers, timeout=60, trust_env=False
    )
    assert response.status_code == 400
    assert "Jane" not in response.text
    assert "999" not in response.text


def test_ten_thousand_parts_are_one_bad_request(url: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "multipart/form-data; boundary=x"}
    response = httpx.post(
        f"{url}/v1/files", content=part * 10_000 + b"--x--\r\n", headers=headers, timeout=60, trust_env=False
    )
    assert response.status_code == 400
