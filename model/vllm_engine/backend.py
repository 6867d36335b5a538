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
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sonoloop.model.checkpoint import check_folder
from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.decoding import end_ids
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.generation import Backend, Progress, Request, Turn, TurnAnswer
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.structured import EntitiesGrammar, RowConstraint, RowSpec
from sonoloop.model.vllm_engine.core import VllmCore, Written, unsupported
from sonoloop.platform.errors import ConfigError, Reason, RejectedError

logger = logging.getLogger(__name__)

_TURN_TOKENS = 256
"""Room for the texts between the answers of a conversation."""


@dataclass(eq=False, slots=True)
class _Conversation:
    """A request under way: all tokens so far, the answers so far."""

    index: int
    request: Request
    token_ids: list[int]
    num_streamed: int = 0
    answers: list[TurnAnswer] = field(default_factory=list)

    @property
    def turn(self) -> Turn:
        """The turn being answered."""
        return self.request.turns[len(self.answers)]

    @property
    def is_over(self) -> bool:
        cut = bool(self.answers) and not self.answers[-1].ended
        return cut or len(self.answers) == len(self.request.turns)


class VllmBackend(Backend):
    """A model folder in a vLLM engine of this process. Calls from several threads take turns.

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
        self._end_ids: tuple[int, ...] = end_ids(processor) if processor else ()
        self._grammar = (
            EntitiesGrammar(
                processor.tokenizer, vocab_size=int(text.vocab_size), end_id=processor.end_of_turn_id
            )
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
        self._names = itertools.count()
        self._lock = threading.Lock()
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
        with self._lock:
            self._core.close()

    @property
    def _merge(self) -> int:
        return int(self._model_config.vision_config.spatial_merge_size)

    def run(self, requests: Sequence[Request], *, streamed: bool) -> Progress:
        """Answer requests that were checked; closing the iterator stops the model."""
        running: dict[str, _Conversation] = {}
        with self._lock:
            try:
                for index, request in enumerate(requests):
                    talk = _Conversation(index, request, list(request.prompt.token_ids))
                    self._submit(talk, running, streamed)
                while running:
                    for written in self._core.step():
                        talk = running[written.name]
                        new_ids = list(written.token_ids[talk.num_streamed :])
                        talk.num_streamed = len(written.token_ids)
                        if written.finished:
                            del running[written.name]
                            self._take(talk, written)
                            self._submit(talk, running, streamed)
                        yield talk.index, new_ids, talk.answers if talk.is_over else None
            except AssertionError as err:
                raise RuntimeError("vLLM found itself in an unexpected state") from err
            finally:
                self._core.abort(list(running))

    def _submit(self, talk: _Conversation, running: dict[str, _Conversation], streamed: bool) -> None:
        """Give vLLM the conversation's next turn, where there is one."""
        if talk.is_over:
            return
        if talk.answers:  # the conversation goes on after the first of the ends, whichever was written
            talk.token_ids[-1:] = [self._end_ids[0], *talk.turn.text_ids]
        name, talk.num_streamed = str(next(self._names)), 0
        running[name] = talk
        self._core.submit(
            name,
            talk.token_ids,
            talk.request.prompt,
            talk.turn,
            talk.request.sampling,
            end_ids=self._end_ids,
            streamed=streamed,
        )

    def _take(self, talk: _Conversation, written: Written) -> None:
        """Add a finished answer to its conversation."""
        values: dict[str, float] = {}
        if talk.turn.constraint and self._grammar:
            values = value_probabilities(
                self._grammar, talk.turn.constraint, written.token_ids, written.steps
            )
        log_probs = [
            math.log(max(step[token_id], 1e-300))
            for token_id, step in zip(written.token_ids, written.steps, strict=True)
        ]
        ended = bool(written.token_ids) and written.token_ids[-1] in self._end_ids
        talk.answers.append(TurnAnswer(written.token_ids, tuple(log_probs), values, ended))
        talk.token_ids += written.token_ids


def value_probabilities(
    grammar: EntitiesGrammar, row: RowSpec, token_ids: Sequence[int], steps: Sequence[dict[int, float]]
) -> dict[str, float]:
    """Walk a finished answer through its grammar again and measure its values.

    Args:
        grammar: Of the model's tokenizer.
        row: What the answer was about.
        token_ids: The answer.
        steps: Per token, probabilities of the most likely allowed tokens.

    Returns:
        Entity field -> probability of its value among the admissible ones.
    """
    constraint = RowConstraint(grammar, row)
    at = 0
    while not constraint.is_finished():
        at += len(constraint.take_forced())
        if at >= len(token_ids) or constraint.is_finished():
            break
        allowed = constraint.allowed()
        shares = np.array([steps[at].get(int(other), 0.0) for other in allowed], dtype=np.float32)
        constraint.choose(token_ids[at], allowed, shares)
        at += 1
    return constraint.value_probabilities
