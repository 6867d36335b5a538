"""The door over answers that take their time or fail; the real model stands behind it in ``test_app``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from tests.serve.fixed import Ask, Fixed, fixed
from tests.serve.virtual_time import run

from sonoloop.model.chat import ChatPiece, ChatResult
from sonoloop.platform.errors import Reason
from sonoloop.serve.app import Api
from sonoloop.serve.champion import Event, Question, Refusal
from sonoloop.serve.config import ServeConfig
from sonoloop.serve.keys import key_digest

API_KEY = "test-key-0123456789abcdef"
SECRET = "Jane Doe 1970-01-01"
CONFIG = ServeConfig(timeout_s=1, max_ongoing=1, max_queued=0)


def answers(*events: Event, forever: bool = False, begun: asyncio.Event | None = None) -> Ask:
    async def ask(_question: Question) -> AsyncGenerator[Event, None]:
        if begun is not None:
            begun.set()
        for event in events:
            yield event
        if forever:
            await asyncio.Event().wait()

    return ask


def client(ask: Ask) -> httpx.AsyncClient:
    return client_of(Api(CONFIG, "nano", fixed("nano/1", ask), key_digest(API_KEY)))


def client_of(api: Api) -> httpx.AsyncClient:
    app = api.app()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    return httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers)


def post(ask: Ask, **fields: Any) -> httpx.Response:
    body = {"model": "nano", "messages": [{"role": "user", "content": SECRET}], **fields}

    async def main() -> httpx.Response:
        async with client(ask) as http:
            return await http.post("/v1/chat/completions", json=body)

    return run(main())


def streamed(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    for stream in (False, True):
        response = post(answers(forever=True), stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")


def test_the_time_limit_holds_for_the_whole_answer_and_ends_a_stream_with_an_error() -> None:
    response = post(answers(ChatPiece("a piece"), forever=True), stream=True)
    assert response.status_code == 200
    *_, piece, last = streamed(response)
    assert piece["choices"][0]["delta"]["content"] == "a piece"
    assert last["error"]["code"] == "timeout"


def test_a_stream_that_ends_well_says_so() -> None:
    result = ChatResult("a cyst", prompt_tokens=7, completion_tokens=3, finish_reason="stop")
    events = streamed(post(answers(ChatPiece("a "), ChatPiece("cyst"), result), stream=True))
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1] == "[DONE]"


def test_a_model_that_fails_is_an_error_before_the_first_piece_and_an_event_after_it() -> None:
    failed = Refusal(Reason.MODEL_FAILED, "the model failed on this request")
    before = post(answers(failed), stream=True)
    assert (before.status_code, before.json()["error"]["type"]) == (500, "server_error")
    after = streamed(post(answers(ChatPiece("a piece"), failed), stream=True))
    assert after[-1]["error"]["code"] == "model_failed"


def test_an_unforeseen_error_shows_nothing_of_itself() -> None:
    async def ask(_question: Question) -> AsyncGenerator[Event, None]:
        raise RuntimeError(SECRET)
        yield  # makes it a generator

    response = post(ask)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert SECRET not in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_place_is_given_back_however_the_answer_ends(stream: bool) -> None:
    failing = [
        answers(Refusal(None, "no")),
        answers(ChatPiece("a piece"), forever=True),
        answers(forever=True),
    ]
    kinds = iter([*failing, answers(ChatResult("ok", 1, 1, "stop"))])
    body = {"model": "nano", "messages": [{"role": "user", "content": "x"}], "stream": stream}

    def in_turn(question: Question) -> AsyncGenerator[Event, None]:
        return next(kinds)(question)

    async def main() -> list[int]:
        async with client(in_turn) as http:
            return [(await http.post("/v1/chat/completions", json=body)).status_code for _ in range(4)]

    assert run(main())[-1] == 200


def test_one_asker_more_than_there_are_places_is_sent_away() -> None:
    body = {"model": "nano", "messages": [{"role": "user", "content": "x"}]}

    async def main() -> list[httpx.Response]:
        async with client(answers(forever=True)) as http:
            return await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(3)))

    responses = run(main())
    assert sorted(response.status_code for response in responses) == [429, 429, 504]
    assert all(int(r.headers["retry-after"]) > 0 for r in responses if r.status_code == 429)


def test_a_full_line_is_told_before_the_body_is_read() -> None:
    body = {"model": "nano", "messages": [{"role": "user", "content": "x"}]}
    read: list[bytes] = []
    begun = asyncio.Event()

    async def slowly() -> AsyncGenerator[bytes, None]:
        for part in (b"{", b"}"):
            read.append(part)
            yield part

    async def main() -> int:
        async with client(answers(forever=True, begun=begun)) as http:
            first = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            await begun.wait()
            refused = await http.post("/v1/chat/completions", content=slowly())
            await first
            return refused.status_code

    assert run(main()) == 429
    assert read == []


def test_an_answer_names_the_version_that_it_began_with_though_the_champion_changes_meanwhile() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_question: Question) -> AsyncGenerator[Event, None]:
        begun.set()
        await go_on.wait()
        yield ChatResult("old", 1, 1, "stop")

    old, new = Fixed("nano/1", slow), Fixed("nano/2", answers(ChatResult("new", 1, 1, "stop")))
    serving = [old]
    config = ServeConfig(max_ongoing=2)
    body = {"model": "nano", "messages": [{"role": "user", "content": "x"}]}

    async def main() -> list[dict[str, Any]]:
        async with client_of(Api(config, "nano", lambda: serving[0], key_digest(API_KEY))) as http:
            first = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            await begun.wait()
            serving[0] = new
            second = await http.post("/v1/chat/completions", json=body)
            go_on.set()
            return [(await first).json(), second.json()]

    answered = [(a["model"], a["choices"][0]["message"]["content"]) for a in run(main())]
    assert answered == [("nano/1", "old"), ("nano/2", "new")]
