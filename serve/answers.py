"""What the model writes, in OpenAI's forms: one object, or server-sent events."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import BaseModel

from sonoloop.model.chat import ChatPiece, ChatResult
from sonoloop.model.openai.answer import ChatChunk, ChatCompletion, ChunkChoice, Delta, Identity, Usage
from sonoloop.model.openai.conversation import completion, logprobs_of, usage
from sonoloop.model.openai.errors import ApiError

DONE = "data: [DONE]\n\n"


def new_identity(version: str) -> Identity:
    """A fresh name for an answer of a model version.

    Args:
        version: ``<name>/<digest>``; the digest is of the weights.
    """
    return Identity(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=version,
        system_fingerprint=f"fp_{version.rpartition('/')[2]}",
    )


@dataclass(frozen=True)
class Answer:
    """The ``n`` answers to one request.

    Attributes:
        identity: What all parts share.
        num_choices: How many answers there are.
        logprobs: Whether tokens come with their log-probabilities.
    """

    identity: Identity
    num_choices: int = 1
    logprobs: bool = False

    async def whole(self, events: AsyncIterator[tuple[int, ChatPiece | ChatResult]]) -> ChatCompletion:
        """Read all answers to their ends.

        Args:
            events: What each answer writes, with the answer's number.

        Raises:
            ApiError: what ``events`` raises.
        """
        ended = {index: event async for index, event in events if isinstance(event, ChatResult)}
        results = [ended[index] for index in range(self.num_choices)]
        return completion(self.identity, results, logprobs=self.logprobs)

    async def streamed(
        self, events: AsyncIterator[tuple[int, ChatPiece | ChatResult]], *, include_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events. An error in the middle is an event, since the status is sent already."""
        for index in range(self.num_choices):
            yield self._event(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))
        ended: list[ChatResult] = []
        try:
            async for index, event in events:
                if isinstance(event, ChatPiece):
                    yield self._event(self._piece(index, event))
                    continue
                ended.append(event)
                yield self._event(ChunkChoice(index=index, delta=Delta(), finish_reason=event.finish_reason))
            if include_usage:
                yield self._event(usage=usage(ended))
        except ApiError as err:
            yield _sse(err.body())
            return
        yield DONE

    def _piece(self, index: int, piece: ChatPiece) -> ChunkChoice:
        tokens = logprobs_of(piece.logprobs) if self.logprobs else None
        return ChunkChoice(index=index, delta=Delta(content=piece.text), logprobs=tokens)

    def _event(self, *choices: ChunkChoice, usage: Usage | None = None) -> str:
        return _sse(ChatChunk(**self.identity.model_dump(), choices=list(choices), usage=usage))


def _sse(event: BaseModel) -> str:
    return f"data: {event.model_dump_json()}\n\n"
