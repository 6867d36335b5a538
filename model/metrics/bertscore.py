"""BERTScore from any encoder folder: how well the words of two texts meet in meaning.

The `bert-score` package has had no release since 2023; the figure itself is a matching of cosines.

Shape letters: T tokens of the answer, S tokens of the reference, D width
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sonoloop.platform.errors import ConfigError

DEFINITION = (
    "mean over cases of the F1 of greedy cosine matching between the last hidden states of answer and "
    "reference (Zhang et al., ICLR 2020, section 3), no idf weights, no rescaling, special tokens left out"
)
_BATCH = 16


class BertScorer:
    """Scores texts with one encoder.

    Args:
        folder: A Hugging Face folder of an encoder (safetensors) with its tokenizer.
        device: Where it runs; CUDA where there is one when absent.

    Raises:
        ConfigError: the folder holds no encoder.
    """

    def __init__(self, folder: Path, *, device: str | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as err:
            raise ConfigError(
                f"BERTScore: {folder.name} holds no encoder in Hugging Face's layout with safetensors"
            ) from err
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)
        self._max_tokens = (
            int(getattr(model.config, "max_position_embeddings", 512)) - 2
        )  # RoBERTa starts at 2
        self.name = folder.name

    def score(self, answers: Sequence[str], references: Sequence[str]) -> list[float]:
        """F1 of each answer, -1..1; 0 where either side has no word. Longer texts are cut to the encoder's.

        Raises:
            ValueError: lengths that differ.
        """
        if len(answers) != len(references):
            raise ValueError(f"expected as many answers as references, got {len(answers)}, {len(references)}")
        said, wanted = self._states(answers), self._states(references)
        return [f1(one, other) for one, other in zip(said, wanted, strict=True)]

    @torch.inference_mode()
    def _states(self, texts: Sequence[str]) -> list[Tensor]:
        """States ``(T, D)`` of length 1 of each text, special tokens left out."""
        found: list[Tensor] = []
        for start in range(0, len(texts), _BATCH):
            given = self._tokenizer(
                list(texts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_special_tokens_mask=True,
                return_tensors="pt",
            ).to(self._device)
            special = given.pop("special_tokens_mask").bool()
            states = self._model(**given).last_hidden_state.float()
            kept = given["attention_mask"].bool() & ~special
            states = torch.nn.functional.normalize(states, dim=-1)
            found += [row[keep].cpu() for row, keep in zip(states, kept, strict=True)]
        return found


def f1(said_TD: Tensor, wanted_SD: Tensor) -> float:
    """F1 of greedy matching between states of length 1."""
    if not len(said_TD) or not len(wanted_SD):
        return 0.0
    cosine_TS = said_TD @ wanted_SD.T
    precision, recall = cosine_TS.amax(1).mean().item(), cosine_TS.amax(0).mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
