"""What the model wrote, in OpenAI's forms: one object, or server-sent events."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sonoloop.model.chat import ChatResult
from sonoloop.serve.protocol import (
    AnswerMessage,
    ApiError,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Delta,
    ErrorBody,
    FinishReason,
    Usage,
)

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Answer:
    """One answer's identity, shared by all its parts.

    Attributes:
        model: The model version that answers.
        id: A fresh name.
        created: Unix time, seconds.
    """

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self, events: AsyncIterator[str | ChatResult]) -> ChatCompletion:
        """Read the answer to its end.

        Raises:
            ApiError: what ``events`` raises.
        """
        (result,) = [event async for event in events if isinstance(event, ChatResult)]
        choice = Choice(message=AnswerMessage(content=result.text), finish_reason=result.finish_reason)
        return ChatCompletion(
            id=self.id, created=self.created, model=self.model, choices=[choice], usage=_usage(result)
        )

    async def streamed(
        self, events: AsyncIterator[str | ChatResult], *, include_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events. An error in the middle is an event, since the status is sent already."""
        yield self._event(Delta(role="assistant", content=""))
        try:
            async for event in events:
                if isinstance(event, str):
                    yield self._event(Delta(content=event))
                    continue
                yield self._event(Delta(), event.finish_reason)
                if include_usage:
                    yield _sse(self._chunk([], usage=_usage(event)))
        except ApiError as err:
            yield _sse(err.body())
            return
        yield DONE

    def _event(self, delta: Delta, finish_reason: FinishReason | None = None) -> str:
        return _sse(self._chunk([ChunkChoice(delta=delta, finish_reason=finish_reason)]))

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)


def _usage(result: ChatResult) -> Usage:
    return Usage.of(result.prompt_tokens, result.completion_tokens)


def _sse(event: ChatChunk | ErrorBody) -> str:
    return f"data: {event.model_dump_json()}\n\n"
