"""From tokens to pieces of text that are settled: whole characters that no stop string may still claim."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from tokenizers.decoders import DecodeStream

from sonoloop.model.chat import ChatOptions, ChatPiece, ChatResult, TokenLogprob
from sonoloop.model.decoding import answer_text
from sonoloop.model.generation import Backend, Request, Token
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.structured import Grammars


def stream_answer(
    backend: Backend, processor: EchoVLMProcessor, request: Request, options: ChatOptions
) -> Generator[ChatPiece, None, ChatResult]:
    """Pieces of text as the model writes them; the generator returns the whole answer.

    Closing the generator takes the request out of the batch, as does a stop string.

    Args:
        backend: What generates.
        processor: Of the same model.
        request: One turn, checked.
        options: Its stop strings and log-probabilities.

    Raises:
        RejectedError: The model failed on this request.
    """
    answer = _Answer(backend, processor, options)
    with closing(backend.stream(request)) as stream:
        ended = False
        while not answer.is_stopped:
            try:
                tokens = next(stream)
            except StopIteration as stop:
                (written,) = stop.value
                ended = written.ended
                break
            for token in tokens:
                if piece := answer.add(token):
                    yield piece
                if answer.is_stopped:
                    break
    if piece := answer.finish(ended=ended):
        yield piece
    return ChatResult(
        text=answer.told,
        prompt_tokens=len(request.prompt.token_ids),
        completion_tokens=len(answer.token_ids),
        finish_reason="stop" if ended or answer.is_stopped else "length",
        logprobs=tuple(answer.told_logprobs),
    )


class _Answer:
    """An answer under way.

    Attributes:
        token_ids: So far, up to the one that completed a stop string.
        told: The text told so far.
        told_logprobs: The tokens told so far, where they are wanted.
        is_stopped: Whether a stop string was written.
    """

    def __init__(self, backend: Backend, processor: EchoVLMProcessor, options: ChatOptions) -> None:
        self._processor, self._options = processor, options
        self._grammars: Grammars | None = backend.grammars
        self._decoding = DecodeStream(skip_special_tokens=True)
        self._text = ""
        self._waiting: list[tuple[int, Token]] = []  # with the length of the text before each
        self.token_ids: list[int] = []
        self.told = ""
        self.told_logprobs: list[TokenLogprob] = []
        self.is_stopped = False

    def add(self, token: Token) -> ChatPiece | None:
        """Take one more token; returns what is settled by it."""
        self.token_ids.append(token.token_id)
        self._waiting.append((len(self._text), token))
        new = self._decoding.step(self._processor.tokenizer.backend_tokenizer, token.token_id)
        if not new:
            return None
        self._text += new
        return self._tell(self._settled(len(new)))

    def finish(self, *, ended: bool) -> ChatPiece | None:
        """What was held back, if no stop string claims it."""
        if self.is_stopped:
            return None
        if ended:
            self._waiting.pop()  # the token that ends an answer is no part of its text
        whole = answer_text(self._processor, self.token_ids)
        self._text += whole[len(self._text) :]  # bytes at the end that never became a character
        return self._tell(len(self._text), is_last=True)

    def _settled(self, num_new: int) -> int:
        """Characters that no stop string can claim any more, or up to the first one that is written."""
        stops = self._options.stop
        longest = max(map(len, stops), default=0)
        begin = max(len(self.told), len(self._text) - num_new - longest)
        found = [at for stop in stops if (at := self._text.find(stop, begin)) >= 0]
        if found:
            self.is_stopped = True
            return min(found)
        tail = self._text[max(len(self.told), len(self._text) - longest) :]
        held = max((_overlap(tail, stop) for stop in stops), default=0)
        return len(self._text) - held

    def _tell(self, settled: int, *, is_last: bool = False) -> ChatPiece | None:
        piece, self.told = self._text[len(self.told) : settled], self._text[:settled]
        if self._options.top_logprobs is None:
            return ChatPiece(piece) if piece else None
        ready = [token for begin, token in self._waiting if begin < settled or is_last]
        self._waiting = self._waiting[len(ready) :]
        logprobs = tuple(self._logprob(token) for token in ready)
        self.told_logprobs += logprobs
        return ChatPiece(piece, logprobs) if piece or logprobs else None

    def _logprob(self, token: Token) -> TokenLogprob:
        top = tuple((*self._spelled(token_id), log_prob) for token_id, log_prob in token.top)
        return TokenLogprob(*self._spelled(token.token_id), token.log_prob, top)

    def _spelled(self, token_id: int) -> tuple[str, bytes]:
        assert self._grammars is not None, "a model that chats has a tokenizer"
        utf8 = self._grammars.spelling([token_id])
        return utf8.decode(errors="replace"), utf8


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that may be the beginning of a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
