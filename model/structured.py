"""Decoding under the lexicon: at every step only tokens that keep the answer valid JSON of known words.

Shape letters: A tokens that are allowed next.

The grammar engine is llguidance. Two of its habits matter here: whitespace must be switched off, or a weak
model walks in blanks; and a finished matcher must be forced to end. Text that the grammar leaves no choice
about is spelled at once, without asking the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerFast

from sonoloop.model.value_probabilities import ValueMeter
from sonoloop.platform.lexicon import ORGANS, Organ, generation_schema, longest_text

TokenIds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowSpec:
    """What one row may write about: its organ where known, and how many images a box may name."""

    organ: Organ | None
    num_images: int

    def schema(self) -> str:
        """The JSON schema of this row's entities and boxes."""
        return json.dumps(generation_schema(self.organs(), num_images=self.num_images))

    def max_tokens(self) -> int:
        """Tokens within which any tokenizer can finish: a token per byte of the longest text, and the end."""
        return longest_text(self.organs(), num_images=self.num_images) + 1

    def organs(self) -> tuple[Organ, ...]:
        """The organs that the row may name."""
        return (self.organ,) if self.organ else ORGANS


class EntitiesGrammar:
    """Matchers for one tokenizer; the tokenizer's trie and each compiled grammar are made once.

    Args:
        tokenizer: Any fast tokenizer (byte-level BPE).
        vocab_size: Width of the model's logits; may exceed the tokenizer's own size.
        end_id: The token that ends an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, vocab_size: int, end_id: int) -> None:
        self.vocab_size, self.end_id = vocab_size, end_id
        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=end_id)
        self._compiled: dict[RowSpec, LLMatcher] = {}
        self._ids: dict[bytes, TokenIds] = {}

    def matcher(self, row: RowSpec) -> LLMatcher:
        """A fresh matcher at the start of an answer.

        Raises:
            ValueError: the grammar does not compile.
        """
        if row not in self._compiled:
            grammar = LLMatcher.grammar_from_json_schema(
                row.schema(), overrides={"whitespace_flexible": False, "item_separator": ","}
            )
            compiled = LLMatcher(self._tokenizer, grammar)
            if compiled.is_error():
                raise ValueError(f"the lexicon's schema does not compile: {compiled.get_error()[:200]}")
            self._compiled[row] = compiled
        return self._compiled[row].deep_copy()

    def allowed_ids(self, matcher: LLMatcher) -> TokenIds:
        """The tokens that a running matcher admits next, ``(A,)``, ascending, at least one."""
        packed: bytes = matcher.compute_bitmask()
        if packed not in self._ids:  # few masks recur: unpacking 150,000 bits costs more than the lookup
            bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
            self._ids[packed] = np.flatnonzero(bits[: self.vocab_size])
        return self._ids[packed]

    def spelling(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that tokens stand for."""
        return self._tokenizer.decode_bytes(list(token_ids))  # type: ignore[no-any-return]


class RowConstraint:
    """One answer under way: what may come next, what must come next, and how sure the values are.

    An answer whose matcher fails is forced to end; its text then does not parse.

    Args:
        grammar: Of the model's tokenizer.
        row: What the answer may be about.
    """

    def __init__(self, grammar: EntitiesGrammar, row: RowSpec) -> None:
        self._grammar = grammar
        self._matcher = grammar.matcher(row)
        self._meter = ValueMeter(row.organs())
        self.text = b""
        """Bytes written so far."""

    @property
    def value_probabilities(self) -> dict[str, float]:
        """Entity field -> probability of its value among the admissible ones, where there was a choice."""
        return self._meter.probabilities()

    def is_finished(self) -> bool:
        """Whether nothing but the end is left."""
        return bool(self._matcher.is_stopped() or self._matcher.is_error())

    def take_forced(self) -> list[int]:
        """Tokens that spell what must follow in any case, as training spells it; they are consumed.

        Where forced bytes could still be the beginning of several tokens, they are left to `allowed`.
        """
        if self.is_finished():
            return []
        token_ids: list[int] = self._matcher.compute_ff_tokens()
        if token_ids:
            self._consume(token_ids)
        return token_ids

    def allowed(self) -> TokenIds:
        """The tokens that may come next, ``(A,)``; the end alone when finished."""
        if self.is_finished():
            return np.array([self._grammar.end_id])
        return self._grammar.allowed_ids(self._matcher)

    def choose(self, token_id: int, allowed: TokenIds, probabilities: npt.NDArray[np.float32]) -> None:
        """Take a token.

        Args:
            token_id: One of ``allowed``.
            allowed: What `allowed` gave at this step, ``(A,)``.
            probabilities: Of each of them, ``(A,)``, summing to 1.
        """
        if self.is_finished():
            return
        if len(allowed) > 1:
            self._meter.note(
                self.text,
                bytes(self._matcher.compute_ff_bytes()),
                {int(i): self._grammar.spelling([int(i)]) for i in allowed},
                probabilities,
                token_id,
            )
        self._consume([token_id])

    def _consume(self, token_ids: list[int]) -> None:
        self._matcher.consume_tokens(token_ids)
        self.text += self._grammar.spelling(token_ids)
