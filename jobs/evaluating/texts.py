"""Figures of written answers, for every suite: each by every tokenizer, named in brackets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sonoloop.jobs.config import EvaluateConfig
from sonoloop.model.metrics import bertscore, text
from sonoloop.model.metrics.tokens import Tokenizer
from sonoloop.model.resampling import Statistic, mean


class TextFigures:
    """Scores texts.

    Args:
        tokenizers: How texts are cut.
        config: Names the encoder of BERTScore, if there is one.

    Raises:
        ConfigError: the encoder cannot be loaded.
    """

    def __init__(self, tokenizers: Sequence[Tokenizer], config: EvaluateConfig) -> None:
        self._tokenizers = tokenizers
        folder = config.bertscore_model
        self._encoder = bertscore.BertScorer(Path(folder)) if folder else None

    @property
    def names(self) -> list[str]:
        """The tokenizers, and the encoder where there is one."""
        encoder = [f"BERTScore: {self._encoder.name}"] if self._encoder else []
        return [*(f"{one.short}: {one.name}" for one in self._tokenizers), *encoder]

    @property
    def definitions(self) -> dict[str, str]:
        """What the figures mean."""
        encoder = {"BERTScore": bertscore.DEFINITION} if self._encoder else {}
        return {**text.DEFINITIONS, **encoder}

    def __call__(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, Statistic]:
        """Figures by name, such as ``BLEU-4 (jieba)``."""
        found: dict[str, Statistic] = {}
        for tokenizer in self._tokenizers:
            counts = text.count_texts(answers, references, tokenizer)
            for name, statistic in text.text_statistics(counts).items():
                found[f"{name} ({tokenizer.short})"] = statistic
        if self._encoder:
            found["BERTScore"] = mean(self._encoder.score(answers, references))
        return found
