from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Generator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from sonoloop.model.chat import ChatMessage, ChatResult
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.platform.errors import Reason
from sonoloop.serve.champion import Event, Question, Refusal, answer_events, in_thread

SECRET = "Jane Doe 1970-01-01"


@pytest.fixture(scope="module")
def engine(untrained_folder: Path) -> TransformersEngine:
    return TransformersEngine(untrained_folder, EngineConfig(device="cpu", max_prompt_tokens=200))


def question(text: str, *images: Image.Image) -> Question:
    content: ChatMessage = {"role": "user", "content": [{"type": "text", "text": text}]}
    content["content"] += [{"type": "image", "image": image} for image in images]
    return Question([content], max_new_tokens=20, temperature=0, seed=0)


def test_pieces_come_first_and_the_whole_result_last(engine: TransformersEngine) -> None:
    *pieces, result = answer_events(engine, question("describe it"))
    assert isinstance(result, ChatResult)
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == result.text != ""


def test_a_prompt_that_is_too_long_is_a_refusal_with_its_reason(engine: TransformersEngine) -> None:
    (event,) = answer_events(engine, question("echo " * 500))
    assert isinstance(event, Refusal)
    assert event.reason is Reason.TOO_MANY_TOKENS


def test_placeholders_without_an_image_are_a_refusal(engine: TransformersEngine) -> None:
    (event,) = answer_events(engine, question("<|image_pad|>"))
    assert event == Refusal(None, "expected 0 image placeholders, found 1")


class _Failing:
    """An engine whose library raises in the middle of an answer, quoting the prompt."""

    def chat_stream(self, *_: object, **__: object) -> Generator[str, None, ChatResult]:
        yield "a piece"
        raise RuntimeError(SECRET)


def test_a_failing_model_is_a_refusal_and_its_message_reaches_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        events = list(answer_events(cast(TransformersEngine, _Failing()), question(SECRET)))
    assert events == ["a piece", Refusal(Reason.MODEL_FAILED, "the model failed on this request")]
    assert "RuntimeError" in caplog.text
    assert "chat_stream" in caplog.text
    assert SECRET not in caplog.text


def test_a_blocking_generator_leaves_the_event_loop_free() -> None:
    go_on = threading.Event()

    def blocking() -> Generator[Event, None, None]:
        assert go_on.wait(10), "the event loop never ran"
        yield "late"

    async def main() -> list[Event]:
        asyncio.get_running_loop().call_later(0.01, go_on.set)
        return [event async for event in in_thread(blocking())]

    assert asyncio.run(main()) == ["late"]


def test_what_the_generator_raises_is_raised_to_the_reader() -> None:
    def raising() -> Generator[Event, None, None]:
        yield "first"
        raise OSError("disk")

    async def main() -> None:
        async for _ in in_thread(raising()):
            pass

    with pytest.raises(OSError, match="disk"):
        asyncio.run(main())


def test_an_abandoned_generator_is_closed_after_its_next_event() -> None:
    closed, go_on = threading.Event(), threading.Event()

    def endless() -> Generator[Event, None, None]:
        try:
            yield "first"
            while go_on.wait(10):
                yield "more"
        finally:
            closed.set()

    async def main() -> None:
        async with aclosing(in_thread(endless())) as events:
            await anext(events)
        go_on.set()
        assert await asyncio.to_thread(closed.wait, 10)

    asyncio.run(main())
