"""What is asked of a generating backend and what it answers: conversations of one or more turns.

A turn is a piece of text that the model reads, then an answer that it writes, freely or under the lexicon's
grammar. The turns of one request share what was read and written before, so nothing is computed twice.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeAlias

from sonoloop.model.patches import Grids, Patches
from sonoloop.model.structured import RowSpec
from sonoloop.platform.errors import Reason, RejectedError


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """How a request begins: token ids with image tokens in place, and the images' patches.

    Attributes:
        token_ids: The conversation up to the first open answer.
        patches: Of all images; none without images.
        image_grid_thw: ``(N, 3)`` int64.
    """

    token_ids: list[int]
    patches: Patches
    image_grid_thw: Grids


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer to write.

    Attributes:
        max_new_tokens: Limit of the answer, its ending token included.
        text_ids: Read before it, after the previous answer and its end; empty in the first turn.
        constraint: The grammar of the answer; None leaves it free.
    """

    max_new_tokens: int
    text_ids: tuple[int, ...] = ()
    constraint: RowSpec | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is taken: the most likely one at temperature 0, else drawn with ``seed``."""

    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """A prompt and its turns. A turn that does not end within its limit is the last one answered."""

    prompt: Prompt
    turns: tuple[Turn, ...]
    sampling: Sampling = field(default_factory=Sampling)

    def max_tokens(self) -> int:
        """Most tokens that the whole conversation can hold."""
        return len(self.prompt.token_ids) + sum(len(t.text_ids) + t.max_new_tokens + 1 for t in self.turns)


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """What was written in one turn.

    Attributes:
        token_ids: The ending token included where it was reached.
        log_probs: Of each token, under the distribution it was taken from: after the grammar's mask and
            before the temperature; 0 where the grammar left no choice.
        value_probabilities: Entity field -> probability of its value among the admissible ones, 0..1; for
            fields that were a choice. Empty in a free turn.
        ended: Whether the ending token was reached.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    value_probabilities: Mapping[str, float]
    ended: bool

    def score(self) -> float:
        """Geometric mean probability of the answer's tokens, 0..1: a length-normalised likelihood."""
        return math.exp(sum(self.log_probs) / len(self.log_probs)) if self.log_probs else 1.0


Progress: TypeAlias = Generator[tuple[int, list[int], list[TurnAnswer] | None], None, None]
"""``(request index, new token ids, answers)``, step by step; answers are None until the request is done."""


class Backend(ABC):
    """What turns requests into tokens: transformers here, vLLM, or another."""

    @property
    @abstractmethod
    def context_tokens(self) -> int:
        """Tokens of a whole conversation that model and memory have room for."""

    def check(self, request: Request) -> None:
        """Refuse a request that could never finish.

        Raises:
            RejectedError: the prompt and its longest answers exceed what there is room for.
        """
        if request.max_tokens() > self.context_tokens:
            num_prompt = len(request.prompt.token_ids)
            raise RejectedError(
                Reason.TOO_MANY_TOKENS,
                f"expected prompt and answers of at most {self.context_tokens} tokens together, got a prompt "
                f"of {num_prompt} and answers of up to {request.max_tokens() - num_prompt}",
            )

    @abstractmethod
    def run(self, requests: Sequence[Request], *, streamed: bool) -> Progress:
        """Answer requests that were checked; closing the iterator stops the model.

        Args:
            requests: What to answer.
            streamed: Whether somebody waits for single tokens.

        Returns:
            Who wrote what, step by step.
        """

    def generate(self, requests: Sequence[Request]) -> list[list[TurnAnswer] | RejectedError]:
        """Answer every request, in order; one that can never fit is a rejection in its place.

        Raises:
            RuntimeError: The model failed; nothing of the call is left in it.
        """
        results: dict[int, list[TurnAnswer] | RejectedError] = {}
        fitting = []
        for index, request in enumerate(requests):
            try:
                self.check(request)
                fitting.append(index)
            except RejectedError as err:
                results[index] = err
        for position, _, answers in self.run([requests[index] for index in fitting], streamed=False):
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
        with closing(self.run([request], streamed=True)) as running:
            for _, token_ids, answers in running:
                on_tokens(token_ids)
                if answers is not None:
                    return answers
                if not is_wanted():
                    break
        return []


def geometric_mean(probabilities: Iterable[float]) -> float:
    """Geometric mean of probabilities, 0..1; 1 for none."""
    logs = [math.log(max(probability, 1e-300)) for probability in probabilities]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0
