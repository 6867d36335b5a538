"""Engines: prepared cases in, drafts or rejections out.

An engine answers every case of a batch, in order; one bad case never takes the others down. Drafting is
greedy and deterministic: two passes of one conversation, the report freely, then the entities under the
lexicon's grammar. A further engine (vLLM, a remote server) implements `Engine` and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from sonoloop.model.chat import ChatMessage, ChatResult, chat_prompt, stream_answer
from sonoloop.model.checkpoint import load_model
from sonoloop.model.decoding import Decoder, Prompt, Sampling
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.processor import PATCH_DIM, EchoVLMProcessor, PreparedCase
from sonoloop.model.prompts import Conversation, entities_turns, format_report, parse_report, report_turns
from sonoloop.model.structured import EntitiesConstraint, EntitiesGrammar, RowSpec
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.lexicon import Entities, LesionBox, parse_generated

logger = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a model wrote for one case, parsed.

    Attributes:
        findings: The report's first section.
        impression: Its second section.
        entities: Valid under the lexicon.
        boxes: Lesion boxes, fractions of their image.
        confidence: Geometric mean probability of the entity tokens that were a choice, 0..1.
        num_tokens: Tokens generated for this case, ends included.
    """

    findings: str
    impression: str
    entities: Entities
    boxes: tuple[LesionBox, ...]
    confidence: float
    num_tokens: int


class Engine(Protocol):
    """What writes drafts."""

    def draft(self, batch: Sequence[PreparedCase]) -> list[Draft | RejectedError]:
        """One draft or rejection per case, in order."""
        ...


@dataclass(frozen=True, slots=True)
class _Report:
    case: PreparedCase
    findings: str
    impression: str
    num_tokens: int


class TransformersEngine:
    """Drafts with transformers' ``generate``. Weights load once, in the constructor.

    Args:
        folder: A model folder: published weights, tokenizer, preprocessor configuration.
        config: Device, dtype and limits.

    Raises:
        CheckpointError: the folder is incomplete or of another architecture.
    """

    def __init__(self, folder: Path, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self.processor = EchoVLMProcessor.from_folder(folder, max_pixels=self.config.max_pixels)
        model = load_model(
            folder,
            dtype=self.config.resolved_dtype(),
            device=self.config.resolved_device(),
            attn_implementation=self.config.attn_implementation,
        )
        self._decoder = Decoder(model, self.processor)
        self._grammar = EntitiesGrammar(
            self.processor.tokenizer,
            vocab_size=self._decoder.vocab_size,
            end_id=self.processor.end_of_turn_id,
        )

    def draft(self, batch: Sequence[PreparedCase]) -> list[Draft | RejectedError]:
        """One draft or rejection per case, in order.

        A rejection's reason is ``too-many-tokens``, ``no-pixels``, ``not-an-image``, ``invalid-output`` or
        ``model-failed`` (the only one a retry may help).
        """
        checked = [_attempt(self._check, case) for case in batch]
        reports = _stage(self._reports, checked)
        return _stage(self._drafts, reports)

    def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> ChatResult:
        """Answer a free conversation; at temperature 0 the most likely token is taken.

        Raises:
            ValueError: the conversation is not one the chat template can write.
            RejectedError: an image cannot be used, or the prompt is too long.
        """
        stream = self.chat_stream(messages, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        while True:
            try:
                next(stream)
            except StopIteration as stop:
                result: ChatResult = stop.value
                return result

    def chat_stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Generator[str, None, ChatResult]:
        """As `chat`, in pieces of text; the generator's return value is the whole result.

        Raises before the first piece what `chat` raises. Closing the generator stops the model.
        """
        prompt = chat_prompt(self.processor, messages)
        self._check_length(len(prompt.token_ids))
        return stream_answer(self._decoder, prompt, Sampling(max_new_tokens, temperature, seed))

    def _check(self, case: PreparedCase) -> PreparedCase:
        if len(case.image_grid_thw) == 0:
            raise RejectedError(Reason.NO_PIXELS, "expected at least one image, got none")
        num_patches = int(case.image_grid_thw.prod(axis=1).sum())
        if case.pixel_values.shape != (num_patches, PATCH_DIM) or not np.isfinite(case.pixel_values).all():
            raise RejectedError(
                Reason.NOT_AN_IMAGE, f"expected {num_patches} finite patches, got {case.pixel_values.shape}"
            )
        turns = report_turns(len(case.image_grid_thw), case.organ_hint)
        self._check_length(len(self.processor.token_ids(turns, case.image_grid_thw)))
        return case

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens > self.config.max_prompt_tokens:
            raise RejectedError(
                Reason.TOO_MANY_TOKENS,
                f"expected a prompt of at most {self.config.max_prompt_tokens} tokens, got {num_tokens}",
            )

    def _prompt(self, case: PreparedCase, turns: Conversation) -> Prompt:
        ids = self.processor.token_ids(turns, case.image_grid_thw)
        return Prompt(ids, case.pixel_values, case.image_grid_thw)

    def _reports(self, cases: Sequence[PreparedCase]) -> list[_Report | RejectedError]:
        turns = [report_turns(len(case.image_grid_thw), case.organ_hint) for case in cases]
        answers = self._decoder.generate(
            [self._prompt(case, turn) for case, turn in zip(cases, turns, strict=True)],
            Sampling(self.config.max_report_tokens),
        )
        return [_attempt(lambda pair: self._report(*pair), pair) for pair in zip(cases, answers, strict=True)]

    def _report(self, case: PreparedCase, token_ids: list[int]) -> _Report:
        if not self._decoder.has_ended(token_ids):
            raise RejectedError(Reason.INVALID_OUTPUT, f"the report did not end in {len(token_ids)} tokens")
        try:
            findings, impression = parse_report(self._decoder.text(token_ids))
        except ValueError as err:
            raise RejectedError(Reason.INVALID_OUTPUT, str(err)) from err
        return _Report(case, findings, impression, len(token_ids))

    def _drafts(self, reports: Sequence[_Report]) -> list[Draft | RejectedError]:
        rows = [RowSpec(report.case.organ_hint, len(report.case.image_grid_thw)) for report in reports]
        constraint = EntitiesConstraint(self._grammar, rows)
        prompts = []
        for report, row in zip(reports, rows, strict=True):
            text = format_report(report.findings, report.impression)
            prompts.append(self._prompt(report.case, entities_turns(row.num_images, row.organ, text)))
        answers = self._decoder.generate(prompts, Sampling(self.config.max_entities_tokens), constraint)
        parts = zip(reports, answers, constraint.confidences(), strict=True)
        return [_attempt(lambda part: self._draft(*part), part) for part in parts]

    def _draft(self, report: _Report, token_ids: list[int], confidence: float) -> Draft:
        num_images = len(report.case.image_grid_thw)
        try:
            entities, boxes = parse_generated(self._decoder.text(token_ids), num_images=num_images)
        except ValueError as err:
            raise RejectedError(
                Reason.INVALID_OUTPUT,
                f"the entities are not valid under the lexicon after {len(token_ids)} tokens",
            ) from err
        return Draft(
            findings=report.findings,
            impression=report.impression,
            entities=entities,
            boxes=boxes,
            confidence=confidence,
            num_tokens=report.num_tokens + len(token_ids),
        )


def _attempt(work: Callable[[S], T], item: S) -> T | RejectedError:
    """The result for one item, or its rejection as a value."""
    try:
        return work(item)
    except RejectedError as rejection:
        return rejection


def _stage(
    work: Callable[[Sequence[S]], list[T | RejectedError]], items: Sequence[S | RejectedError]
) -> list[T | RejectedError]:
    """Run a batch stage on the items that are not rejected yet; results come back in their places."""
    alive = [item for item in items if not isinstance(item, RejectedError)]
    results = iter(_one_by_one_on_failure(work, alive) if alive else [])
    return [item if isinstance(item, RejectedError) else next(results) for item in items]


def _one_by_one_on_failure(
    work: Callable[[Sequence[S]], list[T | RejectedError]], items: Sequence[S]
) -> list[T | RejectedError]:
    """If the batch fails as a whole (memory, a kernel), find the items that fail alone."""
    try:
        return work(items)
    except (RuntimeError, ValueError, IndexError) as err:
        if len(items) == 1:
            return [RejectedError(Reason.MODEL_FAILED, type(err).__name__, retryable=True)]
        logger.warning("a batch of %d failed (%s); its cases run one by one", len(items), type(err).__name__)
        return [result for item in items for result in _one_by_one_on_failure(work, [item])]
