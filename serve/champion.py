"""The replica that holds the model: questions in, pieces of their answers out.

What goes wrong travels as a value, not as an exception: Ray would log an exception with its text, and a text
from deep inside a library may quote the prompt.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from sonoloop.model.chat import ChatMessage, ChatOptions, ChatPiece, ChatResult
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.open_engine import LoadedEngine, open_engine
from sonoloop.model.structured import SchemaError
from sonoloop.platform import registry
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.logs import LogConfig, in_request
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store
from sonoloop.serve import replica_logs
from sonoloop.serve.drafts.case import CaseEvent, DraftCase, DraftedCase
from sonoloop.serve.drafts.drafting import draft_cases, draft_events
from sonoloop.serve.metrics import ReplicaMetrics

logger = logging.getLogger(__name__)
E = TypeVar("E")

FIRST_QUESTION: ChatMessage = {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]}


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation with decoded images, and how it is to be answered."""

    messages: list[ChatMessage]
    options: ChatOptions


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no (whole) answer, see `sonoloop.model.openai.errors.refused`."""

    reason: Reason | None
    detail: str
    param: str = "messages"


Event: TypeAlias = ChatPiece | ChatResult | Refusal
"""A piece of text; at the end the whole result, or a refusal."""


class Champion:
    """One loaded model version, which answers many at once: their rows share the engine's forward passes.

    It answers a question of its own before it says that it is there, and again after an answer failed.

    Args:
        workspace: Where the registry lies; its keys come from this machine's environment.
        version: ``<name>/<version>``, resolved once for all replicas, so that they agree.
        config: Device, dtype and limits.
        max_ongoing: Requests that are inside at the same time, a thread for each.
        log: How this replica writes its logs.

    Raises:
        ConfigError: the registry has no such version.
        CheckpointError: its files cannot be used.
        RejectedError: it cannot answer.
    """

    def __init__(
        self, workspace: Store, version: str, config: EngineConfig, max_ongoing: int, log: LogConfig
    ) -> None:
        replica_logs.set_up(log)
        self._workspace, self._version = workspace, version
        # Twice: one whose asker has gone holds its thread up to its next piece.
        self._threads = ThreadPoolExecutor(2 * max_ongoing, thread_name_prefix="answer")
        self._engine = open_engine(registry.fetch(workspace, version), config)
        self._metrics = ReplicaMetrics()
        self._is_in_doubt = False
        self._answer_own()
        logger.info("model %s loaded", version)

    async def check_health(self) -> None:
        """Serve asks every few seconds, and replaces a replica that keeps raising.

        One request may fail by itself. After a fault of the device all do, and only a new process helps.

        Raises:
            RejectedError: the model cannot answer its own question either.
        """
        if self._is_in_doubt:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._answer_own)
            self._is_in_doubt = False

    async def answer(self, question: Question) -> AsyncGenerator[list[Event], None]:
        """Pieces of text as the model writes them, then its `ChatResult`; or a `Refusal`.

        What was written since the last list was taken comes together. Closing the generator stops the model
        at its next piece.
        """
        try:
            async for events in self._told(answer_events(self._engine, question)):
                self._metrics.load(*self._engine.load())
                yield events
        finally:
            self._metrics.load(*self._engine.load())

    async def draft(self, cases: list[DraftCase]) -> list[DraftRecord]:
        """A draft or a rejection for each case, in order."""
        request = replica_logs.request_id()

        def work() -> list[DraftRecord]:
            with in_request(request):
                return draft_cases(self._engine, self._workspace, self._version, cases)

        drafts = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        self._is_in_doubt |= any(map(_is_failure, drafts))
        return drafts

    async def write(self, case: DraftCase) -> AsyncGenerator[list[CaseEvent], None]:
        """Pieces of a case's report as the model writes them, then its draft or rejection."""
        async for events in self._told(draft_events(self._engine, self._workspace, self._version, case)):
            yield events

    def _told(self, events: Generator[E, None, None]) -> AsyncGenerator[list[E], None]:
        """What a thread makes of events, in the name of the request that this call is part of."""
        watched = self._watched(events)
        return in_thread(replica_logs.naming(replica_logs.request_id(), watched), self._threads)

    def _watched(self, events: Generator[E, None, None]) -> Generator[E, None, None]:
        """The events; where the model failed on one, it is in doubt from then on."""
        with closing(events):
            for event in events:
                self._is_in_doubt |= _is_failure(event)
                yield event

    def _answer_own(self) -> None:
        self._engine.chat([FIRST_QUESTION], ChatOptions(max_new_tokens=1))


def _is_failure(event: object) -> bool:
    outcome = event.record if isinstance(event, DraftedCase) else event
    return isinstance(outcome, Refusal | DraftRecord) and outcome.reason == Reason.MODEL_FAILED


def answer_events(engine: LoadedEngine, question: Question) -> Generator[Event, None, None]:
    """As `Champion.answer`, blocking."""
    try:
        stream = engine.chat_stream(question.messages, question.options)
    except RejectedError as err:
        yield Refusal(err.reason, err.detail)
        return
    except ValueError as err:
        yield Refusal(None, str(err), "response_format" if isinstance(err, SchemaError) else "messages")
        return
    try:
        result = yield from stream
    except Exception as err:  # the boundary: a replica outlives one failed answer
        frames = "".join(traceback.format_tb(err.__traceback__))
        logger.error("an answer failed with %s at\n%s", type(err).__name__, frames)
        yield Refusal(Reason.MODEL_FAILED, "the model failed on this request")
        return
    yield result


async def in_thread(
    events: Generator[E, None, None], threads: ThreadPoolExecutor
) -> AsyncGenerator[list[E], None]:
    """Run a blocking generator in a thread; the event loop stays free.

    Every list holds what came since the last one was taken: each costs Ray a message, and a slow reader has
    fewer of them. The thread alone touches the generator, and closes it after the next event once nobody
    listens.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[E | None] = asyncio.Queue()
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

    work = loop.run_in_executor(threads, pump)
    try:
        while taken := await _waiting(arrived):
            yield taken
        await work
    finally:
        abandoned.set()


async def _waiting(arrived: asyncio.Queue[E | None]) -> list[E]:
    """All that has arrived, at least one; nothing after the end."""
    taken = [await arrived.get()]
    while taken[-1] is not None and not arrived.empty():
        taken.append(arrived.get_nowait())
    if taken[-1] is None and len(taken) > 1:
        arrived.put_nowait(None)
    return [event for event in taken if event is not None]
