"""The replica that holds the model: one question in, pieces of an answer out.

What goes wrong travels as a value, not as an exception: Ray would log an exception with its text, and a text
from deep inside a library may quote the prompt.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

from sonoloop.model.chat import ChatMessage, ChatResult
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.open_engine import LoadedEngine, open_engine
from sonoloop.platform import registry
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store
from sonoloop.serve.labelstudio.cases import DraftCase
from sonoloop.serve.labelstudio.drafting import draft_cases

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation with decoded images, and how it is to be answered."""

    messages: list[ChatMessage]
    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no (whole) answer; ``detail`` is free of the request's text."""

    reason: Reason | None
    detail: str


Event: TypeAlias = str | ChatResult | Refusal
"""A piece of text; at the end the whole result, or a refusal."""


class Champion:
    """One loaded model version. Questions take turns inside the engine, in threads of their own.

    Args:
        workspace: Where the registry lies; its keys come from this machine's environment.
        version: ``<name>/<version>``, resolved once for all replicas, so that they agree.
        config: Device, dtype and limits.

    Raises:
        ConfigError: the registry has no such version.
        CheckpointError: its files cannot be used.
    """

    def __init__(self, workspace: Store, version: str, config: EngineConfig) -> None:
        self._workspace, self._version = workspace, version
        self._engine = open_engine(registry.fetch(workspace, version), config)
        logger.info("model %s loaded", version)

    async def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        """Pieces of text as the model writes them, then its `ChatResult`; or a `Refusal`.

        Closing the generator stops the model at its next piece.
        """
        async for event in in_thread(answer_events(self._engine, question)):
            yield event

    async def draft(self, cases: list[DraftCase]) -> list[DraftRecord]:
        """A draft or a rejection for each case, in order."""
        return await asyncio.to_thread(draft_cases, self._engine, self._workspace, self._version, cases)


def answer_events(engine: LoadedEngine, question: Question) -> Generator[Event, None, None]:
    """As `Champion.answer`, blocking."""
    try:
        stream = engine.chat_stream(
            question.messages,
            max_new_tokens=question.max_new_tokens,
            temperature=question.temperature,
            seed=question.seed,
        )
    except RejectedError as err:
        yield Refusal(err.reason, err.detail)
        return
    except ValueError as err:
        yield Refusal(None, str(err))
        return
    try:
        result = yield from stream
    except Exception as err:  # the boundary: a replica outlives one failed answer
        frames = "".join(traceback.format_tb(err.__traceback__))
        logger.error("an answer failed with %s at\n%s", type(err).__name__, frames)
        yield Refusal(Reason.MODEL_FAILED, "the model failed on this request")
        return
    yield result


async def in_thread(events: Generator[Event, None, None]) -> AsyncGenerator[Event, None]:
    """Run a blocking generator in a thread; the event loop stays free.

    The thread alone touches the generator, and closes it after the next event once nobody listens.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Event | None] = asyncio.Queue()
    abandoned = threading.Event()

    def pump() -> None:
        try:
            with closing(events):
                for event in events:
                    loop.call_soon_threadsafe(arrived.put_nowait, event)
                    if abandoned.is_set():
                        return
        finally:
            loop.call_soon_threadsafe(arrived.put_nowait, None)

    work = loop.run_in_executor(None, pump)
    try:
        while (event := await arrived.get()) is not None:
            yield event
        await work
    finally:
        abandoned.set()
