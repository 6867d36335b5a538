"""Engines: prepared cases in, drafts or rejections out.

An engine answers every case of a batch, in order; one bad case never takes the others down. Drafting is
greedy and deterministic: one conversation of two turns per case, the report freely, then the entities under
the lexicon's grammar. What generates the tokens is a `Backend`: transformers here, vLLM in `vllm_engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sonoloop.model.chat import ChatMessage, ChatOptions, ChatPiece, ChatResult, chat_prompt
from sonoloop.model.chat_stream import stream_answer
from sonoloop.model.checkpoint import load_model
from sonoloop.model.chosen import boxes_in_case
from sonoloop.model.decoding import TransformersBackend, answer_text
from sonoloop.model.draft import Draft
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.expert_usage import ExpertUsage
from sonoloop.model.generation import (
    Backend,
    Prompt,
    Request,
    Sampling,
    Turn,
    TurnAnswer,
)
from sonoloop.model.packed import can_pack, pack_for_inference
from sonoloop.model.prepared import PreparedCase
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.prompts import parse_report, report_turns
from sonoloop.model.report_stream import stream_report
from sonoloop.model.structured import JsonSpec, RowSpec
from sonoloop.model.supervised import between_answers
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.lexicon import Entities, LesionBox, parse_generated

S = TypeVar("S")
T = TypeVar("T")
B = TypeVar("B", bound=Backend)


class Engine(Protocol):
    """What writes drafts."""

    def draft(self, batch: Sequence[PreparedCase]) -> list[Draft | RejectedError]:
        """One draft or rejection per case, in order."""
        ...


class DraftingEngine(Generic[B]):
    """Drafts and chats with any backend.

    Any number of threads may call at the same time: their requests share the model's steps, and in float32
    an answer does not depend on its company. A failure of the model ends the requests that it belongs to.

    Args:
        backend: What generates.
        processor: Of the model folder.
        config: Limits and language.
    """

    def __init__(self, backend: B, processor: EchoVLMProcessor, config: EngineConfig) -> None:
        self.backend, self.processor, self.config = backend, processor, config

    def load(self) -> tuple[int, int]:
        """Rows running, and requests waiting."""
        return self.backend.live.load()

    def draft(self, batch: Sequence[PreparedCase]) -> list[Draft | RejectedError]:
        """One draft or rejection per case, in order.

        A rejection's reason is ``too-many-tokens``, ``no-pixels``, ``not-an-image``, ``invalid-output`` or
        ``model-failed`` (the only one a retry may help).
        """
        requests = [_attempt(self._request, case) for case in batch]
        answers = _stage(self.backend.generate, requests)
        return [_attempt(lambda pair: self._draft(*pair), pair) for pair in zip(batch, answers, strict=True)]

    def draft_stream(
        self, case: PreparedCase, usage: ExpertUsage | None = None
    ) -> Generator[str, None, Draft]:
        """As `draft` for one case, its report in pieces; the generator's return value is the whole draft.

        Closing the generator takes the case out of the batch.

        Args:
            case: The case.
            usage: Counts which experts the case used; one of the backend's `new_usage`.

        Raises:
            RejectedError: as of `draft`.
        """
        request = replace(self._request(case), usage=usage)
        self.backend.check(request)
        answers = yield from stream_report(self.backend, self.processor, request)
        return self._draft(case, answers)

    def chat(self, messages: Sequence[ChatMessage], options: ChatOptions | None = None) -> ChatResult:
        """Answer a free conversation.

        Raises:
            SchemaError: no answer can be written under the schema.
            ValueError: the conversation is not one the chat template can write; the text does not quote it.
            RejectedError: an image cannot be used, the prompt is too long, or the model failed.
        """
        stream = self.chat_stream(messages, options)
        while True:
            try:
                next(stream)
            except StopIteration as stop:
                result: ChatResult = stop.value
                return result

    def chat_stream(
        self, messages: Sequence[ChatMessage], options: ChatOptions | None = None
    ) -> Generator[ChatPiece, None, ChatResult]:
        """As `chat`, in pieces of text; the generator's return value is the whole result.

        Raises before the first piece what `chat` raises. Closing the generator ends this answer and no other.
        An answer that would outgrow the context is cut there.
        """
        options = options or ChatOptions()
        request = self._chat_request(messages, options)
        self.backend.check(request)
        return stream_answer(self.backend, self.processor, request, options)

    def answer(
        self, conversations: Sequence[Sequence[ChatMessage]], *, max_new_tokens: int = 512
    ) -> list[ChatResult | RejectedError]:
        """As `chat` for many conversations at once, each with the most likely tokens.

        One answer or rejection per conversation, in order.

        Raises:
            ValueError: as of `chat`.
        """
        options = ChatOptions(max_new_tokens)
        requests = [
            _attempt(lambda messages: self._chat_request(messages, options), messages)
            for messages in conversations
        ]
        answers = _stage(self.backend.generate, requests)
        return [
            _attempt(lambda pair: self._chat_result(*pair), p) for p in zip(requests, answers, strict=True)
        ]

    def _chat_request(self, messages: Sequence[ChatMessage], options: ChatOptions) -> Request:
        prompt = chat_prompt(self.processor, messages)
        self._check_length(len(prompt.token_ids))
        room = max(1, self.backend.context_tokens - len(prompt.token_ids) - 1)
        constraint = None if options.schema is None else JsonSpec(options.schema)
        turn = Turn(min(options.max_new_tokens, room), constraint=constraint)
        sampling = Sampling(options.temperature, options.seed, options.top_p, options.top_logprobs or 0)
        return Request(prompt, (turn,), sampling)

    def _chat_result(
        self, request: Request | RejectedError, answers: list[TurnAnswer] | RejectedError
    ) -> ChatResult:
        if isinstance(answers, RejectedError):
            raise answers
        assert isinstance(request, Request)
        (written,) = answers
        return ChatResult(
            text=answer_text(self.processor, written.token_ids),
            prompt_tokens=len(request.prompt.token_ids),
            completion_tokens=len(written.token_ids),
            finish_reason="stop" if written.ended else "length",
        )

    def _request(self, case: PreparedCase) -> Request:
        """The conversation of a case.

        Raises:
            RejectedError: nothing to see, patches that are none, or too many tokens.
        """
        num_images, language = len(case.image_grid_thw), self.config.language
        _check_patches(case)
        token_ids = self.processor.token_ids(
            report_turns(num_images, case.organ_hint, language=language), case.image_grid_thw
        )
        self._check_length(len(token_ids))
        between = between_answers(self.processor, num_images, case.organ_hint, language)
        row = RowSpec(case.organ_hint, num_images)
        report = Turn(self.config.max_report_tokens)
        entities = Turn(
            min(self.config.max_entities_tokens, row.max_tokens()),
            text_ids=tuple(self.processor.tokenizer(between, add_special_tokens=False)["input_ids"]),
            constraint=row,
        )
        return Request(Prompt(token_ids, case.patches, case.image_grid_thw), (report, entities))

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens > self.config.max_prompt_tokens:
            raise RejectedError(
                Reason.TOO_MANY_TOKENS,
                f"expected a prompt of at most {self.config.max_prompt_tokens} tokens, got {num_tokens}",
            )

    def _draft(self, case: PreparedCase, answers: list[TurnAnswer] | RejectedError) -> Draft:
        """Parse what was written.

        Raises:
            RejectedError: the case was rejected before, or the report or the entities cannot be read.
        """
        if isinstance(answers, RejectedError):
            raise answers
        report, *rest = answers
        if not report.ended:
            raise RejectedError(
                Reason.INVALID_OUTPUT, f"the report did not end in {len(report.token_ids)} tokens"
            )
        try:
            findings, impression = parse_report(
                answer_text(self.processor, report.token_ids), language=self.config.language
            )
        except ValueError as err:
            raise RejectedError(Reason.INVALID_OUTPUT, str(err)) from err
        (written,) = rest
        entities, boxes = self._entities(case, written)
        return Draft(
            findings=findings,
            impression=impression,
            entities=entities,
            boxes=boxes,
            value_probabilities=written.value_probabilities,
            report_score=report.score(),
            num_tokens=len(report.token_ids) + len(written.token_ids),
        )

    def _entities(self, case: PreparedCase, written: TurnAnswer) -> tuple[Entities, tuple[LesionBox, ...]]:
        text = answer_text(self.processor, written.token_ids)
        try:
            entities, boxes = parse_generated(text, num_images=len(case.image_grid_thw))
        except ValueError as err:
            raise RejectedError(
                Reason.INVALID_OUTPUT,
                f"the entities are not valid under the lexicon after {len(written.token_ids)} tokens",
            ) from err
        return entities, boxes_in_case(boxes, case.image_indices)


class TransformersEngine(DraftingEngine[TransformersBackend]):
    """Drafts and chats with transformers' modules. Weights load once, in the constructor.

    Args:
        folder: A model folder: published weights, tokenizer, preprocessor configuration.
        config: Device, dtype, limits and language.

    Raises:
        CheckpointError: the folder is incomplete or of another architecture.
    """

    def __init__(self, folder: Path, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        processor = EchoVLMProcessor.from_folder(folder, max_pixels=config.max_pixels)
        dtype, device = config.resolved_dtype(), config.resolved_device()
        model = load_model(folder, dtype=dtype, device=device)
        if can_pack(device, dtype):
            pack_for_inference(model)
        super().__init__(TransformersBackend(model, processor, config), processor, config)


def _check_patches(case: PreparedCase) -> None:
    if len(case.image_grid_thw) == 0:
        raise RejectedError(Reason.NO_PIXELS, "expected at least one image, got none")
    num_patches = int(case.image_grid_thw.prod(axis=1).sum())
    if not case.patches.are(num_patches):
        raise RejectedError(
            Reason.NOT_AN_IMAGE, f"expected {num_patches} finite patches, got {case.patches.values.shape}"
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
    results = iter(work(alive))
    return [item if isinstance(item, RejectedError) else next(results) for item in items]
