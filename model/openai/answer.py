"""What the model wrote, in OpenAI's forms: a whole answer, or the chunks of a streamed one."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens of one exchange; image tokens count as prompt tokens, and the prompt once for all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Usage:
        """Both counts and their sum."""
        total = prompt_tokens + completion_tokens
        return cls(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)


class TopLogprob(BaseModel):
    """A token that could have stood at a place."""

    token: str
    logprob: float = Field(description="natural logarithm of its probability, down to -9999")
    bytes: list[int] = Field(description="its UTF-8 bytes, which need not be whole characters")


class Logprob(TopLogprob):
    """A token of the answer, and the most likely ones at its place."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """Every token of an answer or a chunk."""

    content: list[Logprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One of the answers; ``length`` says that it was cut at the limit of tokens."""

    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class Identity(BaseModel):
    """What all parts of an answer share; ``model`` names the version that gave it."""

    id: str
    created: int = Field(description="Unix time, seconds")
    model: str
    system_fingerprint: str = Field(description="the same for the same weights")


class ChatCompletion(Identity):
    """A whole answer."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[Choice]
    usage: Usage


class Delta(BaseModel):
    """What a chunk adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The next piece of one of the answers."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Identity):
    """One event of a streamed answer; the last one may carry usage and no choice."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    usage: Usage | None = None
