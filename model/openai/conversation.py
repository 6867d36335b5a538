"""From OpenAI's protocol to the engine's words, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from PIL import Image

from sonoloop.model.chat import ChatMessage, ChatOptions, ChatPart, ChatResult, TokenLogprob
from sonoloop.model.openai.answer import (
    AnswerMessage,
    ChatCompletion,
    Choice,
    Identity,
    Logprob,
    Logprobs,
    TopLogprob,
    Usage,
)
from sonoloop.model.openai.request import ChatRequest, RequestMessage, TextPart

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for an impossible token; JSON has no minus infinity."""


def conversation(chat: ChatRequest, pictures: Sequence[Image.Image]) -> list[ChatMessage]:
    """The messages of a request, with the pictures of `ChatRequest.images` in their places."""
    in_order = iter(pictures)
    return [_message(turn, in_order) for turn in chat.messages]


def _message(turn: RequestMessage, pictures: Iterator[Image.Image]) -> ChatMessage:
    parts: list[ChatPart] = [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image", "image": next(pictures)}
        for part in turn.content
    ]
    return {"role": "system" if turn.role == "developer" else turn.role, "content": parts}


def options(chat: ChatRequest, *, max_tokens: int, seed: int) -> list[ChatOptions]:
    """How each of the ``n`` answers is written.

    Args:
        chat: The request.
        max_tokens: New tokens that the server gives at most, and without a wish.
        seed: Of the first answer where the request names none; the next answer has the next one.

    Raises:
        ApiError: 400, more tokens were asked for.
    """
    first = seed if chat.seed is None else chat.seed
    schema, limit = chat.schema_text, chat.token_limit(max_tokens)
    return [
        ChatOptions(
            max_new_tokens=limit,
            temperature=chat.temperature,
            top_p=chat.top_p,
            seed=first + number,
            stop=tuple(chat.stop),
            schema=schema,
            top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        )
        for number in range(chat.n)
    ]


def completion(identity: Identity, results: Sequence[ChatResult], *, logprobs: bool) -> ChatCompletion:
    """A whole answer.

    Args:
        identity: Of the answer.
        results: One for each of the ``n`` answers, at least one.
        logprobs: Whether log-probabilities were asked for.
    """
    choices = [
        Choice(
            index=index,
            message=AnswerMessage(content=result.text),
            logprobs=logprobs_of(result.logprobs) if logprobs else None,
            finish_reason=result.finish_reason,
        )
        for index, result in enumerate(results)
    ]
    return ChatCompletion(**identity.model_dump(), choices=choices, usage=usage(results))


def usage(results: Sequence[ChatResult]) -> Usage:
    """Tokens of all answers to one prompt."""
    return Usage.of(results[0].prompt_tokens, sum(result.completion_tokens for result in results))


def logprobs_of(tokens: Iterable[TokenLogprob]) -> Logprobs:
    """Tokens of an answer or of a piece of one."""
    return Logprobs(content=[_logprob(token) for token in tokens])


def _logprob(token: TokenLogprob) -> Logprob:
    top = [_top(*alternative) for alternative in token.top]
    return Logprob(**_top(token.token, token.utf8, token.logprob).model_dump(), top_logprobs=top)


def _top(token: str, utf8: bytes, logprob: float) -> TopLogprob:
    return TopLogprob(token=token, bytes=list(utf8), logprob=max(logprob, LEAST_LOGPROB))
