"""The default backend: a loaded EchoVLM under continuous batching, one call at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import torch

from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.generation import Request, TurnAnswer
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.runner import ModelRunner
from sonoloop.model.scheduler import Limits, Scheduler
from sonoloop.model.structured import EntitiesGrammar
from sonoloop.platform.errors import Reason, RejectedError

END_OF_TEXT = "<|endoftext|>"


def end_ids(processor: EchoVLMProcessor) -> tuple[int, ...]:
    """Tokens that end an answer: the end of a turn, and of the text where the tokenizer has it."""
    vocabulary = processor.tokenizer.get_vocab()
    return (processor.end_of_turn_id, *([vocabulary[END_OF_TEXT]] if END_OF_TEXT in vocabulary else []))


def answer_text(processor: EchoVLMProcessor, token_ids: Sequence[int]) -> str:
    """The text of an answer, without special tokens."""
    decoded: str = processor.tokenizer.decode(list(token_ids), skip_special_tokens=True)
    return decoded


def check_fits(request: Request, *, context_tokens: int, max_cached_tokens: int) -> None:
    """Refuse a request that could never finish.

    Raises:
        RejectedError: the prompt and its longest answers exceed the model's context or the cache's budget.
    """
    most = min(context_tokens, max_cached_tokens)
    if request.max_tokens() > most:
        raise RejectedError(
            Reason.TOO_MANY_TOKENS,
            f"expected prompt and answers of at most {most} tokens together, got a prompt of "
            f"{len(request.prompt.token_ids)} and answers of up to "
            f"{request.max_tokens() - len(request.prompt.token_ids)}",
        )


class TransformersBackend:
    """Generates with transformers' modules over an arena of keys and values.

    Calls from several threads take turns. In float32 an answer does not depend on the other requests of a
    call, beyond rounding of the last bit: rows are never padded, and each attends to itself alone.

    Args:
        model: In evaluation mode; its decoder attends through the arena from then on.
        processor: Of the same folder.
        config: Limits of rows and memory.
    """

    def __init__(
        self, model: EchoVLMForConditionalGeneration, processor: EchoVLMProcessor, config: EngineConfig
    ) -> None:
        self._runner = ModelRunner(model)
        self._max_cached_tokens = int(config.kv_cache_gib * 2**30) // self._runner.arena.bytes_per_token
        grammar = EntitiesGrammar(
            processor.tokenizer,
            vocab_size=int(model.config.text_config.vocab_size),
            end_id=processor.end_of_turn_id,
        )
        limits = Limits(
            config.max_rows, self._max_cached_tokens, max(config.max_step_tokens, config.max_rows)
        )
        self._scheduler = Scheduler(self._runner, grammar, end_ids(processor), limits)
        self._lock = threading.Lock()

    @property
    def model(self) -> EchoVLMForConditionalGeneration:
        """The loaded model, for whoever measures it (expert usage)."""
        return self._runner.model

    @property
    def context_tokens(self) -> int:
        """Tokens of a whole conversation that model and memory have room for."""
        return min(self._runner.context_tokens, self._max_cached_tokens)

    def generate(self, requests: Sequence[Request]) -> list[list[TurnAnswer] | RejectedError]:
        """Answer every request, in order; one that can never fit is a rejection in its place."""
        results: dict[int, list[TurnAnswer] | RejectedError] = {}
        fitting = []
        for index, request in enumerate(requests):
            try:
                self.check(request)
                fitting.append(index)
            except RejectedError as err:
                results[index] = err
        for position, _, answers in self._run([requests[index] for index in fitting]):
            if answers is not None:
                results[fitting[position]] = answers
        return [results[index] for index in range(len(requests))]

    def stream(
        self, request: Request, on_tokens: Callable[[Sequence[int]], None], is_wanted: Callable[[], bool]
    ) -> list[TurnAnswer]:
        """Answer one request, telling of new tokens as they come.

        Args:
            request: What to answer.
            on_tokens: Gets the ids written by each step.
            is_wanted: Asked after each step; False stops the model.

        Returns:
            The answers; none where it was stopped.

        Raises:
            RejectedError: The request can never fit.
        """
        self.check(request)
        for _, token_ids, answers in self._run([request]):
            on_tokens(token_ids)
            if answers is not None:
                return answers
            if not is_wanted():
                break
        return []

    def check(self, request: Request) -> None:
        """Refuse a request that can never fit.

        Raises:
            RejectedError: As `check_fits`.
        """
        check_fits(
            request,
            context_tokens=self._runner.context_tokens,
            max_cached_tokens=self._max_cached_tokens,
        )

    def _run(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[int], list[TurnAnswer] | None]]:
        with self._lock, torch.inference_mode():
            yield from self._scheduler.run(requests)
