"""The default backend: a loaded EchoVLM under continuous batching."""

from __future__ import annotations

from collections.abc import Sequence

from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.expert_usage import ExpertUsage
from sonoloop.model.generation import Backend
from sonoloop.model.live import LiveBatch, most_inside
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.runner import ModelRunner
from sonoloop.model.scheduler import Limits, Scheduler
from sonoloop.model.structured import Grammars

END_OF_TEXT = "<|endoftext|>"


def end_ids(processor: EchoVLMProcessor) -> tuple[int, ...]:
    """Tokens that end an answer: the end of a turn, and of the text where the tokenizer has it."""
    vocabulary = processor.tokenizer.get_vocab()
    return (processor.end_of_turn_id, *([vocabulary[END_OF_TEXT]] if END_OF_TEXT in vocabulary else []))


def answer_text(processor: EchoVLMProcessor, token_ids: Sequence[int]) -> str:
    """The text of an answer, without special tokens."""
    decoded: str = processor.tokenizer.decode(list(token_ids), skip_special_tokens=True)
    return decoded


class TransformersBackend(Backend):
    """Generates with transformers' modules over an arena of keys and values.

    In float32 an answer does not depend on its company, beyond rounding of the last bit: rows are never
    padded, and each attends to itself alone.

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
        grammars = Grammars(
            processor.tokenizer,
            vocab_size=int(model.config.text_config.vocab_size),
            end_id=processor.end_of_turn_id,
        )
        step_tokens = max(config.max_step_tokens, most_inside(config.max_rows))
        limits = Limits(config.max_rows, self._max_cached_tokens, step_tokens)
        scheduler = Scheduler(self._runner, grammars, end_ids(processor), limits)
        super().__init__(LiveBatch(scheduler), grammars)

    @property
    def model(self) -> EchoVLMForConditionalGeneration:
        """The loaded model, for whoever measures it (expert usage)."""
        return self._runner.model

    def new_usage(self) -> ExpertUsage:
        """A count of experts for one request, on the model's device."""
        text = self.model.config.text_config
        return ExpertUsage(text.num_hidden_layers, text.num_experts, self.model.device)

    @property
    def context_tokens(self) -> int:
        """Tokens of a whole conversation that model and memory have room for."""
        return min(self._runner.context_tokens, self._max_cached_tokens)
