"""Generation with vLLM: the same requests and answers as the transformers backend.

vLLM schedules rows by itself: a conversation's next turn is submitted when its answer is there, while others
are still writing. The prefix cache holds what a conversation has read and written, images included, in whole
blocks (128 tokens on CPU), so a turn reads its own text and less than a block before it. The grammar is the
lexicon's JSON schema under llguidance inside vLLM.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sonoloop.model.checkpoint import check_folder
from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.decoding import end_ids
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.generation import Backend, Outcome, Request, Token, Turn, TurnAnswer, model_failed
from sonoloop.model.live import LiveBatch
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.structured import Grammars, RowConstraint, RowSpec
from sonoloop.model.vllm_engine.core import VllmCore, Written, unsupported
from sonoloop.platform.errors import ConfigError, Reason, RejectedError

logger = logging.getLogger(__name__)

_TURN_TOKENS = 256
"""Room for the texts between the answers of a conversation."""


@dataclass(eq=False, slots=True)
class Conversation:
    """A request under way.

    Attributes:
        request: What is asked.
        token_ids: The prompt, the answers that are there, and the texts between.
        name: Of the answer that vLLM is writing.
        answer: Its tokens so far.
        steps: Per token of it, id -> log-probability of the most likely tokens.
        num_told: How many of them were told of, also before it began anew.
        answers: So far.
    """

    request: Request
    token_ids: list[int]
    name: str = ""
    answer: list[int] = field(default_factory=list)
    steps: list[dict[int, float]] = field(default_factory=list)
    num_told: int = 0
    answers: list[TurnAnswer] = field(default_factory=list)

    @property
    def turn(self) -> Turn:
        """The turn being answered."""
        return self.request.turns[len(self.answers)]

    @property
    def is_over(self) -> bool:
        """Whether the last answer is there."""
        cut = bool(self.answers) and not self.answers[-1].ended
        return cut or len(self.answers) == len(self.request.turns)


class Conversations:
    """Runs conversations in vLLM, an answer at a time; a `sonoloop.model.live.Stepper`.

    An answer that was taken out begins anew, and is told of from where it was: it is the same again.

    Args:
        core: vLLM.
        grammars: Of the model's tokenizer, where it has one.
        end_ids: Tokens that end an answer.
        max_rows: Conversations under way at the same time.
    """

    def __init__(
        self, core: VllmCore, grammars: Grammars | None, end_ids: tuple[int, ...], max_rows: int
    ) -> None:
        self._core, self._grammars, self._end_ids, self.max_rows = core, grammars, end_ids, max_rows
        self._inside: dict[str, Conversation] = {}
        self._names = itertools.count()

    def open(self, request: Request) -> Conversation:
        """A conversation, not yet inside."""
        return Conversation(request, list(request.prompt.token_ids))

    def admit(self, talk: Conversation) -> bool:
        """Give vLLM the conversation's next answer to write; where memory is short, it waits in there."""
        talk.name, talk.answer, talk.steps = str(next(self._names)), [], []
        self._inside[talk.name] = talk
        self._core.submit(
            talk.name,
            talk.token_ids,
            talk.request.prompt,
            talk.turn,
            talk.request.sampling,
            end_ids=self._end_ids,
        )
        return True

    def step(self) -> list[tuple[Conversation, list[Token], Outcome | None]]:
        """Write a token of every answer; returns who wrote what."""
        return [self._taken(self._inside[written.name], written) for written in self._core.step()]

    def remove(self, talk: Conversation) -> None:
        """Forget the answer under way."""
        if self._inside.pop(talk.name, None) is not None:
            self._core.abort([talk.name])

    def _taken(
        self, talk: Conversation, written: Written
    ) -> tuple[Conversation, list[Token], Outcome | None]:
        """As `_take`; what fails there is this conversation's alone, and costs no other its tokens."""
        try:
            return self._take(talk, written)
        except (ArithmeticError, RuntimeError, ValueError, LookupError) as err:
            self.remove(talk)
            return talk, [], model_failed(err)

    def _take(self, talk: Conversation, written: Written) -> tuple[Conversation, list[Token], Outcome | None]:
        """Add what was written to its conversation; after the last answer it is inside no more."""
        taken = zip(written.token_ids, written.steps, strict=True)
        if any(math.isnan(step[token_id]) for token_id, step in taken):
            raise FloatingPointError("expected finite logits")
        talk.answer += written.token_ids
        talk.steps += written.steps
        new = slice(talk.num_told, None)
        talk.num_told = max(talk.num_told, len(talk.answer))
        num_top = talk.request.sampling.num_top
        told = [_token(*pair, num_top) for pair in zip(talk.answer[new], talk.steps[new], strict=True)]
        if not written.finished:
            return talk, told, None
        del self._inside[written.name]
        self._add_answer(talk)
        if talk.is_over:
            return talk, told, talk.answers
        # the conversation goes on after the first of the ends, whichever was written
        talk.token_ids[-1:] = [self._end_ids[0], *talk.turn.text_ids]
        talk.num_told = 0
        self.admit(talk)
        return talk, told, None

    def _add_answer(self, talk: Conversation) -> None:
        values: dict[str, float] = {}
        if isinstance(talk.turn.constraint, RowSpec) and self._grammars:
            values = value_probabilities(self._grammars, talk.turn.constraint, talk.answer, talk.steps)
        log_probs = tuple(step[token_id] for token_id, step in zip(talk.answer, talk.steps, strict=True))
        ended = bool(talk.answer) and talk.answer[-1] in self._end_ids
        talk.answers.append(TurnAnswer(tuple(talk.answer), log_probs, values, ended))
        talk.token_ids += talk.answer


def _token(token_id: int, step: Mapping[int, float], num_top: int) -> Token:
    possible = ((other, log_prob) for other, log_prob in step.items() if math.isfinite(log_prob))
    top = sorted(possible, key=lambda pair: -pair[1])[:num_top]
    return Token(token_id, step[token_id], tuple(top))


class VllmBackend(Backend):
    """A model folder in a vLLM engine of this process.

    Args:
        folder: Published layout, unchanged.
        processor: Of the same folder; None for weights alone: answers then have no end, and no grammar.
        config: Dtype, limits of rows and memory. ``device`` is what vLLM was built for.

    Raises:
        CheckpointError: the folder is incomplete or of another architecture.
        ConfigError: vLLM is not installed, cannot run this model, or refuses the settings.
    """

    def __init__(self, folder: Path, processor: EchoVLMProcessor | None, config: EngineConfig) -> None:
        start = time.monotonic()
        self.config = config
        self._model_config: EchoVLMConfig = check_folder(folder)  # vLLM runs with weights it did not find
        if reason := unsupported(self._model_config, config):
            raise ConfigError(f"vLLM cannot run this model here: {reason}")
        text = self._model_config.text_config
        answers = config.max_report_tokens + config.max_entities_tokens + _TURN_TOKENS
        self._context_tokens = min(int(text.max_position_embeddings), config.max_prompt_tokens + answers)
        ends = end_ids(processor) if processor else ()
        grammars = (
            Grammars(processor.tokenizer, vocab_size=int(text.vocab_size), end_id=processor.end_of_turn_id)
            if processor
            else None
        )
        own_pixels = processor.cutter.max_pixels if processor else 392 * 392
        max_pixels = int(config.max_pixels or own_pixels)
        side_px = self._model_config.vision_config.patch_size * self._merge
        self._max_image_tokens = max(max_pixels // side_px**2, 1)
        self._core = VllmCore(
            folder,
            config,
            max_pixels=max_pixels,
            max_tokens=self._context_tokens,
            has_tokenizer=processor is not None,
        )
        super().__init__(LiveBatch(Conversations(self._core, grammars, ends, config.max_rows)), grammars)
        logger.info("vLLM holds %s after %.1f s", folder.name, time.monotonic() - start)

    @property
    def context_tokens(self) -> int:
        """Tokens of a whole conversation that model and memory have room for."""
        return self._context_tokens

    def check(self, request: Request) -> None:
        """Refuse a request that can never fit, or whose images are not those of its tokens.

        Raises:
            RejectedError: with the reason.
        """
        super().check(request)  # vLLM does not start without memory for one conversation of this length
        prompt, config = request.prompt, self._model_config
        sizes_N = prompt.image_grid_thw.prod(axis=1)
        num_patches, tokens_N = int(sizes_N.sum()), sizes_N // self._merge**2
        # one row's NaN reaches others through vLLM's memory of keys and values (seen in 0.32 on CPU)
        if not prompt.patches.are(num_patches):
            raise RejectedError(
                Reason.NOT_AN_IMAGE,
                f"expected {num_patches} finite patches, got {prompt.patches.values.shape}",
            )
        if prompt.token_ids.count(config.image_token_id) != int(tokens_N.sum()):
            raise RejectedError(Reason.NOT_AN_IMAGE, f"expected {int(tokens_N.sum())} image tokens")
        if len(sizes_N) > self.config.max_images or (tokens_N > self._max_image_tokens).any():
            raise RejectedError(
                Reason.TOO_LARGE,
                f"expected at most {self.config.max_images} images of {self._max_image_tokens} tokens",
            )

    def close(self) -> None:
        """Give the memory back. The backend answers nothing afterwards."""
        super().close()
        self._core.close()

    @property
    def _merge(self) -> int:
        return int(self._model_config.vision_config.spatial_merge_size)


def value_probabilities(
    grammars: Grammars, row: RowSpec, token_ids: Sequence[int], steps: Sequence[Mapping[int, float]]
) -> dict[str, float]:
    """Walk a finished answer through its grammar again and measure its values.

    Args:
        grammars: Of the model's tokenizer.
        row: What the answer was about.
        token_ids: The answer.
        steps: Per token, log-probabilities of the most likely allowed tokens.

    Returns:
        Entity field -> probability of its value among the admissible ones.
    """
    constraint = RowConstraint(grammars, row)
    at = 0
    while not constraint.is_finished():
        at += len(constraint.take_forced())
        if at >= len(token_ids) or constraint.is_finished():
            break
        allowed = constraint.allowed()
        step = steps[at]
        shares = np.exp([step.get(int(other), -np.inf) for other in allowed]).astype(np.float32)
        constraint.choose(token_ids[at], allowed, shares)
        at += 1
    return constraint.value_probabilities
