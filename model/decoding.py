"""Token generation with one loaded model: prompts in, token ids out; left-padded batches, one call at a time.

Shape letters: B rows of the batch, T prompt tokens after padding.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.processor import EchoVLMProcessor, Grids, Patches

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """One row: token ids with image tokens in place, and its patches.

    Attributes:
        token_ids: The conversation up to the open answer.
        pixel_values: ``(P, 1176)`` float32; P is 0 without images.
        image_grid_thw: ``(N, 3)`` int64.
    """

    token_ids: list[int]
    pixel_values: Patches
    image_grid_thw: Grids


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is taken: the most likely one at temperature 0, else drawn with ``seed``."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


class Decoder:
    """A model, its processor and the ids that end an answer. Calls from several threads take turns."""

    def __init__(self, model: EchoVLMForConditionalGeneration, processor: EchoVLMProcessor) -> None:
        self.model, self.processor = model, processor
        # A published folder brings sampling defaults (temperature, repetition penalty); drafts are greedy.
        model.generation_config = GenerationConfig()
        vocabulary = processor.tokenizer.get_vocab()
        self.end_ids = [processor.end_of_turn_id]
        if END_OF_TEXT in vocabulary:
            self.end_ids.append(vocabulary[END_OF_TEXT])
        self.pad_id: int = self.end_ids[-1]
        self._lock = threading.Lock()

    @property
    def vocab_size(self) -> int:
        """Width of the model's logits."""
        return int(self.model.config.text_config.vocab_size)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        constraint: LogitsProcessor | None = None,
        **streaming: Any,
    ) -> list[list[int]]:
        """Answer a batch of prompts.

        Args:
            prompts: At least one.
            sampling: Length and choice of tokens.
            constraint: Masks logits, one row per prompt.
            streaming: ``streamer`` and ``stopping_criteria`` of transformers' ``generate``.

        Returns:
            New token ids per prompt, the ending token included where it was reached.
        """
        batch = self._batch(prompts)
        processors = LogitsProcessorList([constraint] if constraint is not None else [])
        with self._lock, torch.inference_mode(), torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(sampling.seed)
            sequences = self.model.generate(
                **batch,
                generation_config=self._generation_config(sampling),
                logits_processor=processors,
                **streaming,
            )
        new_ids: list[list[int]] = sequences[:, batch["input_ids"].shape[1] :].tolist()
        return [self._up_to_end(ids) for ids in new_ids]

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens."""
        decoded: str = self.processor.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return decoded

    def has_ended(self, token_ids: Sequence[int]) -> bool:
        """Whether an answer reached its end rather than the limit of tokens."""
        return bool(token_ids) and token_ids[-1] in self.end_ids

    def _up_to_end(self, token_ids: list[int]) -> list[int]:
        ends = [position for position, token_id in enumerate(token_ids) if token_id in self.end_ids]
        return token_ids[: ends[0] + 1] if ends else token_ids

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        drawn = {"do_sample": True, "temperature": sampling.temperature} if sampling.temperature > 0 else {}
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=self.pad_id,
            **({"do_sample": False} | drawn),
        )

    def _cuda_devices(self) -> list[torch.device]:
        return [self.model.device] if self.model.device.type == "cuda" else []

    def _batch(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        longest = max(len(prompt.token_ids) for prompt in prompts)
        ids_BT = torch.full((len(prompts), longest), self.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
            mask_BT[row, longest - len(prompt.token_ids) :] = 1
        types_BT = (ids_BT == self.processor.image_token_id).long()
        batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "mm_token_type_ids": types_BT}
        grids = np.concatenate([prompt.image_grid_thw for prompt in prompts])
        if len(grids):
            patches = np.concatenate([prompt.pixel_values for prompt in prompts])
            batch["pixel_values"] = torch.from_numpy(patches).to(self.model.dtype)
            batch["image_grid_thw"] = torch.from_numpy(grids)
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}
