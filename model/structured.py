"""Decoding under the lexicon: at every step only tokens that keep the answer valid JSON of known words.

Shape letters: B rows of the batch, V vocabulary (the width of the logits).

The grammar engine is llguidance. Two of its habits matter here: whitespace must be switched off, or a weak
model walks in blanks; and a finished matcher must be forced to end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from sonoloop.platform.lexicon import ORGANS, Organ, generation_schema


@dataclass(frozen=True, slots=True)
class RowSpec:
    """What one row may write about: its organ where known, and how many images a box may name."""

    organ: Organ | None
    num_images: int

    def grammar(self) -> str:
        """The llguidance grammar of this row's entities and boxes."""
        schema = generation_schema((self.organ,) if self.organ else ORGANS, num_images=self.num_images)
        return LLMatcher.grammar_from_json_schema(  # type: ignore[no-any-return]
            json.dumps(schema), overrides={"whitespace_flexible": False, "item_separator": ","}
        )


class EntitiesGrammar:
    """Matchers for one tokenizer; the tokenizer's trie and each compiled grammar are made once.

    Args:
        tokenizer: Any fast tokenizer (byte-level BPE).
        vocab_size: V, the width of the model's logits; may exceed the tokenizer's own size.
        end_id: The token that ends an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, vocab_size: int, end_id: int) -> None:
        self.vocab_size, self.end_id = vocab_size, end_id
        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=end_id)
        self._compiled: dict[RowSpec, LLMatcher] = {}

    def matcher(self, row: RowSpec) -> LLMatcher:
        """A fresh matcher at the start of an answer.

        Raises:
            ValueError: the grammar does not compile.
        """
        if row not in self._compiled:
            compiled = LLMatcher(self._tokenizer, row.grammar())
            if compiled.is_error():
                raise ValueError(f"the lexicon's schema does not compile: {compiled.get_error()[:200]}")
            self._compiled[row] = compiled
        return self._compiled[row].deep_copy()

    def allowed(self, matcher: LLMatcher) -> tuple[Tensor, bool]:
        """The tokens a matcher admits next, and whether they mean a choice.

        Where the grammar forces the next bytes, several tokens may still spell them; then the tokenizer's own
        spelling is taken where it is certain, and it is no choice. A finished matcher admits the end only.

        Returns:
            Mask ``(V,)`` bool, at least one True; True where the answer's text is not forced.
        """
        if matcher.is_stopped() or matcher.is_error():
            return self._only(self.end_id), False
        if matcher.compute_ff_bytes():
            spelled = matcher.compute_ff_tokens()
            return (self._only(spelled[0]) if spelled else self._mask(matcher)), False
        mask_V = self._mask(matcher)
        return mask_V, int(mask_V.sum()) > 1

    def _mask(self, matcher: LLMatcher) -> Tensor:
        packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, count=min(self.vocab_size, packed.size * 8), bitorder="little")
        mask_V = torch.zeros(self.vocab_size, dtype=torch.bool)
        mask_V[: bits.size] = torch.from_numpy(bits).bool()
        return mask_V

    def _only(self, token_id: int) -> Tensor:
        mask_V = torch.zeros(self.vocab_size, dtype=torch.bool)
        mask_V[token_id] = True
        return mask_V


class EntitiesConstraint(LogitsProcessor):  # type: ignore[misc]  # transformers ships no types
    """Keeps every row of one greedy ``generate`` call inside its own grammar, and measures its confidence.

    Use one object per call. A row whose matcher fails is forced to end; its text then does not parse.

    Args:
        grammar: Of the model's tokenizer.
        rows: One spec per row of the batch.
    """

    def __init__(self, grammar: EntitiesGrammar, rows: Sequence[RowSpec]) -> None:
        self._grammar = grammar
        self._matchers = [grammar.matcher(row) for row in rows]
        self._started = False
        self._log_probs: list[list[float]] = [[] for _ in rows]

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask the logits ``(B, V)`` of the next token, given the ids so far ``(B, T)``."""
        if self._started:
            for matcher, token_id in zip(self._matchers, input_ids[:, -1].tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token_id)
        self._started = True
        pairs = [self._grammar.allowed(matcher) for matcher in self._matchers]
        allowed_BV = torch.stack([mask_V for mask_V, _ in pairs]).to(scores.device)
        masked_BV = scores.masked_fill(~allowed_BV, -math.inf)
        self._note_choices(masked_BV, [row for row, (_, is_choice) in enumerate(pairs) if is_choice])
        return masked_BV

    def _note_choices(self, masked_BV: Tensor, rows: list[int]) -> None:
        """Greedy decoding takes the most likely allowed token: note its log probability among the allowed."""
        if rows:
            best = masked_BV[rows].float().log_softmax(dim=-1).amax(dim=-1).tolist()
            for row, log_prob in zip(rows, best, strict=True):
                self._log_probs[row].append(log_prob)

    def confidences(self) -> list[float]:
        """Per row, the geometric mean probability of the chosen tokens where there was a choice (0..1)."""
        return [math.exp(sum(values) / len(values)) if values else 1.0 for values in self._log_probs]
