"""What is asked of a generating backend and what it answers: conversations of one or more turns.

A turn is a piece of text that the model reads, then an answer that it writes, freely or under a grammar. The
turns of one request share what was read and written before, so nothing is computed twice.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sonoloop.model.patches import Grids, Patches
from sonoloop.model.structured import Grammars, JsonSpec, RowSpec
from sonoloop.platform.errors import Reason, RejectedError

if TYPE_CHECKING:  # which builds on the records below
    from sonoloop.model.expert_usage import ExpertUsage
    from sonoloop.model.live import LiveBatch


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
    constraint: RowSpec | JsonSpec | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is taken: the most likely one at temperature 0, else drawn with ``seed``.

    Attributes:
        temperature: Divides the log-probabilities before a draw.
        seed: Of the draws.
        top_p: Draws are among the most likely tokens that together have this probability, ``(0, 1]``
            (arXiv:1904.09751, section 3.1).
        num_top: Most likely tokens to tell of beside each one taken.
    """

    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    num_top: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """A prompt and its turns. A turn that does not end within its limit is the last one answered.

    Attributes:
        usage: Counts the experts of the tokens that are fed for this request and no other; one of
            `Backend.new_usage`, or None. What is kept of another prompt's beginning is not fed again.
    """

    prompt: Prompt
    turns: tuple[Turn, ...]
    sampling: Sampling = field(default_factory=Sampling)
    usage: ExpertUsage | None = None

    def max_tokens(self) -> int:
        """Most tokens that the whole conversation can hold."""
        return len(self.prompt.token_ids) + sum(len(t.text_ids) + t.max_new_tokens + 1 for t in self.turns)


class Token(NamedTuple):
    """One token of an answer.

    Attributes:
        token_id: What was taken.
        log_prob: Under the distribution it was taken from: after the grammar's mask and before the
            temperature; 0 where the grammar left no choice.
        top: The most likely ids under that distribution with their log-probabilities, most likely first.
    """

    token_id: int
    log_prob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """What was written in one turn.

    Attributes:
        token_ids: The ending token included where it was reached.
        log_probs: Of each token, as in `Token`.
        value_probabilities: Entity field -> probability of its value among the admissible ones, 0..1; for
            fields that were a choice. Empty in a turn without the lexicon's grammar.
        ended: Whether the ending token was reached.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    value_probabilities: Mapping[str, float]
    ended: bool

    def score(self) -> float:
        """Geometric mean probability of the answer's tokens, 0..1: a length-normalised likelihood."""
        return math.exp(sum(self.log_probs) / len(self.log_probs)) if self.log_probs else 1.0


Outcome: TypeAlias = list[TurnAnswer] | RejectedError
"""How a request ends."""
Progress: TypeAlias = Generator[tuple[int, list[Token], Outcome | None], None, None]
"""``(request index, new tokens, outcome)``; the outcome is None until the request is done."""


def model_failed(err: Exception) -> RejectedError:
    """What a failure inside a model is to the asker; the error's text may quote a prompt and is left out."""
    return RejectedError(Reason.MODEL_FAILED, type(err).__name__, retryable=True)


class Backend(ABC):
    """What turns requests into tokens: transformers here, vLLM, or another.

    Any number of threads may ask at the same time; their requests run in one batch.

    Args:
        live: That batch.
        grammars: Of constrained turns; None for a model without a tokenizer.
    """

    def __init__(self, live: LiveBatch[Any], grammars: Grammars | None) -> None:
        self.live, self.grammars = live, grammars

    @property
    @abstractmethod
    def context_tokens(self) -> int:
        """Tokens of a whole conversation that model and memory have room for."""

    def new_usage(self) -> ExpertUsage | None:
        """A count of experts for one request; None from a backend that does not tell which it used."""
        return None

    def check(self, request: Request) -> None:
        """Refuse a request that could never finish.

        Raises:
            RejectedError: the prompt and its longest answers exceed what there is room for.
            SchemaError: a turn's grammar does not compile.
        """
        if request.max_tokens() > self.context_tokens:
            num_prompt = len(request.prompt.token_ids)
            raise RejectedError(
                Reason.TOO_MANY_TOKENS,
                f"expected prompt and answers of at most {self.context_tokens} tokens together, got a prompt "
                f"of {num_prompt} and answers of up to {request.max_tokens() - num_prompt}",
            )
        for turn in request.turns:
            if turn.constraint is not None and self.grammars is not None:
                self.grammars.matcher(turn.constraint)  # here, where it holds up nobody else's answer

    def generate(self, requests: Sequence[Request]) -> list[Outcome]:
        """Answer every request, in order; one that can never fit, or fails, is a rejection in its place."""
        results: dict[int, Outcome] = {}
        fitting = []
        for index, request in enumerate(requests):
            try:
                self.check(request)
                fitting.append(index)
            except RejectedError as err:
                results[index] = err
        for position, _, outcome in self.live.run([requests[index] for index in fitting], streamed=False):
            if outcome is not None:
                results[fitting[position]] = outcome
        return [results[index] for index in range(len(requests))]

    def stream(self, request: Request) -> Generator[list[Token], None, list[TurnAnswer]]:
        """Answer one request that was checked, token by token; closing the generator takes it out.

        Raises:
            RejectedError: The model failed on it.
        """
        with closing(self.live.run([request], streamed=True)) as running:
            for _, tokens, outcome in running:
                yield tokens
                if isinstance(outcome, RejectedError):
                    raise outcome
                if outcome is not None:
                    return outcome
        raise AssertionError("a request has an outcome")

    def close(self) -> None:
        """End what is running. Nothing is answered afterwards."""
        self.live.close()


def geometric_mean(probabilities: Iterable[float]) -> float:
    """Geometric mean of probabilities, 0..1; 1 for none."""
    logs = [math.log(max(probability, 1e-300)) for probability in probabilities]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0
