"""Studies wait in the line of the questions: one place for each, the same refusal, nothing read before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.serve.fixed import fixed
from tests.serve.studies import API_KEY, door, phantom_study

from sonoloop.model.chat import ChatResult
from sonoloop.platform.errors import Reason
from sonoloop.platform.records import DraftRecord
from sonoloop.serve.app import Api
from sonoloop.serve.champion import Event, Question
from sonoloop.serve.config import ServeConfig, ServeSettings
from sonoloop.serve.drafts.case import CaseEvent, DraftCase, DraftedCase
from sonoloop.serve.drafts.routes import Drafts
from sonoloop.serve.keys import key_digest
from sonoloop.serve.line import Line

CHAT, STUDIES = "/v1/chat/completions", "/v1/drafts"
ASKED = {"json": {"model": "nano", "messages": [{"role": "user", "content": "x"}]}}
STUDY = {"files": [("files", ("x", data)) for data in phantom_study()]}


async def answer(_question: Question) -> AsyncGenerator[Event, None]:
    yield ChatResult("a cyst", 1, 1, "stop")


class Writing:
    """A model that has begun a report and goes on when it is let."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def write(self, case: DraftCase) -> AsyncGenerator[CaseEvent, None]:
        yield "a cyst"
        self.has_begun.set()
        await self.may_end.wait()
        row = {"case_id": case.case_id, "run_id": "r", "model_version": "m/1", "prompt_version": "p"}
        failed = {"status": "rejected", "reason": Reason.INVALID_OUTPUT, "config_hash": "h"}
        yield DraftedCase(DraftRecord.model_validate(row | failed))


def app_of(folder: Path, writing: Writing) -> FastAPI:
    """One place in all."""
    config = ServeConfig(max_ongoing=1, max_queued=0)
    drafts = Drafts(ServeSettings(workspace=str(folder), serve=config), writing.write)
    return Api(config, "nano", fixed("m/1", answer), key_digest(API_KEY), [drafts.router]).app()


def asking(app: FastAPI) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://door", headers=headers, timeout=60
    )


def is_refused(response: httpx.Response) -> bool:
    wait_s = int(response.headers.get("retry-after", 0))
    return response.status_code == 429 and response.json()["error"]["code"] == "overloaded" and wait_s > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_study_that_is_drafted_takes_the_place_of_a_question_and_gives_it_back(
    tmp_path: Path, stream: bool
) -> None:
    async def main() -> None:
        writing = Writing()
        app = app_of(tmp_path, writing)
        async with asking(app) as http:
            assert (await http.post(CHAT, **ASKED)).status_code == 200
            study = asyncio.create_task(http.post(STUDIES, params={"stream": stream}, **STUDY))
            await writing.has_begun.wait()
            assert is_refused(await http.post(CHAT, **ASKED))
            assert is_refused(await http.post(STUDIES, **STUDY))
            writing.may_end.set()
            assert "invalid-output" in (await study).text
            assert (await http.post(CHAT, **ASKED)).status_code == 200
        assert (app.state.line.num_inside, app.state.line.num_refused) == (0, 2)

    asyncio.run(main())


def test_where_questions_have_all_places_a_study_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    read: list[bytes] = []

    async def body() -> AsyncGenerator[bytes, None]:
        read.append(b"{")
        yield b"{"

    async def main() -> Any:
        app = app_of(tmp_path, Writing())
        async with asking(app) as http:
            with app.state.line.place():
                return await http.post(STUDIES, content=body(), headers={"Content-Type": "application/json"})

    assert is_refused(asyncio.run(main()))
    assert read == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_study_that_was_drafted_teaches_how_long_answers_take_and_one_that_was_refused_does_not(
    tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays_s: list[float] = []
    monkeypatch.setattr(Line, "_learn", lambda _line, stay_s: stays_s.append(stay_s))
    refused = {"files": [("files", ("x", b"no picture"))]}

    async def main() -> tuple[int, int]:
        async with asking(door(ServeSettings(workspace=str(tmp_path)))) as http:
            assert (await http.post(STUDIES, params={"stream": stream}, **refused)).status_code == 422
            before = len(stays_s)
            assert (await http.post(STUDIES, params={"stream": stream}, **STUDY)).status_code == 200
            return before, len(stays_s)

    assert asyncio.run(main()) == (0, 1)
