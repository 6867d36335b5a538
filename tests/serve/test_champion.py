from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image

from sonoloop.model.chat import ChatMessage, ChatOptions, ChatPiece, ChatResult
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.platform import registry
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.logs import LogConfig
from sonoloop.platform.workspace import Store
from sonoloop.serve.champion import Champion, Event, Question, Refusal, answer_events, in_thread
from sonoloop.serve.drafts.case import DraftCase

THREADS = ThreadPoolExecutor(2)
SECRET = "Jane Doe 1970-01-01"


@pytest.fixture(scope="module")
def engine(untrained_folder: Path) -> TransformersEngine:
    return TransformersEngine(untrained_folder, EngineConfig(device="cpu", max_prompt_tokens=200))


def question(text: str, *images: Image.Image) -> Question:
    content: ChatMessage = {"role": "user", "content": [{"type": "text", "text": text}]}
    content["content"] += [{"type": "image", "image": image} for image in images]
    return Question([content], ChatOptions(max_new_tokens=20))


def test_pieces_come_first_and_the_whole_result_last(engine: TransformersEngine) -> None:
    *pieces, result = answer_events(engine, question("describe it"))
    assert isinstance(result, ChatResult)
    assert "".join(piece.text for piece in pieces if isinstance(piece, ChatPiece)) == result.text != ""


def test_a_prompt_that_is_too_long_is_a_refusal_with_its_reason(engine: TransformersEngine) -> None:
    (event,) = answer_events(engine, question("echo " * 500))
    assert isinstance(event, Refusal)
    assert event.reason is Reason.TOO_MANY_TOKENS


def test_placeholders_without_an_image_are_a_refusal(engine: TransformersEngine) -> None:
    (event,) = answer_events(engine, question("<|image_pad|>"))
    assert event == Refusal(None, "expected 0 image placeholders, found 1")


class _Failing:
    """An engine whose library raises in the middle of an answer, quoting the prompt."""

    def chat_stream(self, *_: object, **__: object) -> Generator[ChatPiece, None, ChatResult]:
        yield ChatPiece("a piece")
        raise RuntimeError(SECRET)


def test_a_failing_model_is_a_refusal_and_its_message_reaches_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        events = list(answer_events(cast(TransformersEngine, _Failing()), question(SECRET)))
    assert events == [ChatPiece("a piece"), Refusal(Reason.MODEL_FAILED, "the model failed on this request")]
    assert "RuntimeError" in caplog.text
    assert "chat_stream" in caplog.text
    assert SECRET not in caplog.text


def test_a_blocking_generator_leaves_the_event_loop_free() -> None:
    go_on = threading.Event()

    def blocking() -> Generator[Event, None, None]:
        assert go_on.wait(60), "the event loop never ran"
        yield ChatPiece("late")

    async def main() -> list[Event]:
        asyncio.get_running_loop().call_later(0.01, go_on.set)
        return [event async for events in in_thread(blocking(), THREADS) for event in events]

    assert asyncio.run(main()) == [ChatPiece("late")]


def test_what_the_generator_raises_is_raised_to_the_reader() -> None:
    def raising() -> Generator[Event, None, None]:
        yield ChatPiece("first")
        raise OSError("disk")

    async def main() -> None:
        async for _ in in_thread(raising(), THREADS):
            pass

    with pytest.raises(OSError, match="disk"):
        asyncio.run(main())


def test_an_abandoned_generator_is_closed_after_its_next_event() -> None:
    closed, go_on = threading.Event(), threading.Event()

    def endless() -> Generator[Event, None, None]:
        try:
            yield ChatPiece("first")
            while go_on.wait(60):
                yield ChatPiece("more")
        finally:
            closed.set()

    async def main() -> None:
        async with aclosing(in_thread(endless(), THREADS)) as events:
            await anext(events)
        go_on.set()
        assert await asyncio.to_thread(closed.wait, 60)

    asyncio.run(main())


def test_a_slow_reader_gets_what_has_come_meanwhile_at_once_and_in_order() -> None:
    written = [ChatPiece(str(number)) for number in range(50)]
    done = threading.Event()

    def fast() -> Generator[Event, None, None]:
        yield from written
        done.set()

    async def main() -> list[list[Event]]:
        lists = []
        async for events in in_thread(fast(), THREADS):
            lists.append(events)
            await asyncio.to_thread(done.wait, 60)
            await asyncio.sleep(0.01)  # the last ones are on their way to the loop
        return lists

    lists = asyncio.run(main())
    assert [event for events in lists for event in events] == written
    assert len(lists) <= 3


async def _asked(champion: Champion, _: DraftCase) -> None:
    async for _events in champion.answer(question("describe it")):
        pass


async def _drafted(champion: Champion, case: DraftCase) -> None:
    await champion.draft([case])


async def _written(champion: Champion, case: DraftCase) -> None:
    async for _events in champion.write(case):
        pass


@pytest.mark.parametrize("use", [_asked, _drafted, _written])
def test_a_replica_that_answers_nothing_any_more_says_that_it_is_ill(
    use: Callable[[Champion, DraftCase], Awaitable[None]],
    untrained_folder: Path,
    picture: Callable[[], bytes],
    tmp_path: Path,
) -> None:
    workspace = Store(str(tmp_path))
    version = registry.publish(workspace, untrained_folder, "untrained", lineage={})
    champion = Champion(workspace, version, EngineConfig(device="cpu"), 2, LogConfig())
    case = DraftCase("c1", "liver", (picture(),))

    async def story() -> None:
        await champion.check_health()
        with broken(champion):
            await use(champion, case)
            with pytest.raises(RejectedError, match="model-failed"):
                await champion.check_health()
        await champion.check_health()
        await use(champion, case)
        await champion.check_health()

    asyncio.run(story())


@contextmanager
def broken(champion: Champion) -> Iterator[None]:
    """Weights that are no numbers, as after a fault of the device's memory."""
    weight = champion._engine.backend.model.model.language_model.norm.weight
    saved = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
        yield
        weight.copy_(saved)
