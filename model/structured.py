"""Decoding under a grammar: at every step only tokens that keep the answer valid JSON of known words.

The lexicon gives the grammar of a draft; a question may bring a JSON schema of its own.

Shape letters: A tokens that are allowed next.

The grammar engine is llguidance. Two of its habits matter here: whitespace must be switched off, or a weak
model walks in blanks; and a finished matcher must be forced to end. Text that the grammar leaves no choice
about is spelled at once, without asking the model.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from sonoloop.model.value_probabilities import ValueMeter
from sonoloop.platform.lexicon import ORGANS, Organ, generation_schema, longest_text

if TYPE_CHECKING:  # seconds of every process that only names a grammar
    from transformers import PreTrainedTokenizerFast

TokenIds = npt.NDArray[np.int64]

COMPACT = {"whitespace_flexible": False, "item_separator": ","}
"""How llguidance is to spell JSON: as the model was taught, without whitespace."""
MAX_SCHEMA_CHARS, MAX_SCHEMA_DEPTH = 65_536, 64
_NUM_COMPILED = 64
"""Grammars kept; the lexicon has one per organ and number of images."""
_MASK_BYTES = 2**26
"""Memory for masks that are kept, with the ids that they stand for."""
_LIMITS = {"max_lexer_states": 50_000, "max_grammar_size": 100_000}
"""Below llguidance's own: some 100 MB and a second for the worst schema that still compiles."""


class SchemaError(ValueError):
    """A JSON schema that no answer can be written under; the text says nothing of what is in it."""


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


@dataclass(frozen=True, slots=True)
class JsonSpec:
    """An answer that obeys a JSON schema, given as text; ``{}`` is any object."""

    text: str

    def schema(self) -> str:
        """The schema, checked for size.

        Raises:
            SchemaError: it is none, or too long or deep.
        """
        if len(self.text) > MAX_SCHEMA_CHARS:
            raise SchemaError(f"expected a JSON schema of at most {MAX_SCHEMA_CHARS} characters")
        try:
            schema = json.loads(self.text)
        except (ValueError, RecursionError):
            raise SchemaError("expected a JSON schema that is valid JSON") from None
        if not isinstance(schema, dict):
            raise SchemaError("expected a JSON schema that is an object")
        if _depth(schema) > MAX_SCHEMA_DEPTH:
            raise SchemaError(f"expected a JSON schema nested at most {MAX_SCHEMA_DEPTH} deep")
        schema.pop("x-guidance", None)  # the grammar engine's own switches are not the asker's
        return json.dumps(schema or {"type": "object"})


def _depth(value: object) -> int:
    """Levels of nesting, without recursion: what is measured may be hostile."""
    level: list[Any] = [value]
    depth = 0
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return depth


class Grammars:
    """Matchers for one tokenizer; the tokenizer's trie and each compiled grammar are made once.

    Any thread may ask for a matcher.

    Args:
        tokenizer: Any fast tokenizer (byte-level BPE).
        vocab_size: Width of the model's logits; may exceed the tokenizer's own size.
        end_id: The token that ends an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, vocab_size: int, end_id: int) -> None:
        from llguidance.hf import from_tokenizer

        self.vocab_size, self.end_id = vocab_size, end_id
        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=end_id)
        self._compiled: OrderedDict[RowSpec | JsonSpec, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._ids: OrderedDict[bytes, TokenIds] = OrderedDict()
        self._mask_bytes = 0

    def matcher(self, spec: RowSpec | JsonSpec) -> LLMatcher:
        """A fresh matcher at the start of an answer.

        Raises:
            SchemaError: the schema does not compile.
        """
        with self._lock:
            compiled = self._compiled.get(spec)
        if compiled is None:
            compiled = self._compile(spec)  # without the lock: the worst schema takes a second
        with self._lock:
            self._compiled[spec] = compiled
            self._compiled.move_to_end(spec)  # or askers' schemas would drive out the lexicon's
            while len(self._compiled) > _NUM_COMPILED:
                self._compiled.popitem(last=False)
        return compiled.deep_copy()

    def _compile(self, spec: RowSpec | JsonSpec) -> LLMatcher:
        grammar = LLMatcher.grammar_from_json_schema(spec.schema(), overrides=COMPACT)
        matcher = LLMatcher(self._tokenizer, grammar, limits=LLParserLimits(**_LIMITS), log_level=0)
        if matcher.is_error():
            raise SchemaError(
                "the JSON schema does not compile: it uses keywords or references that constrained decoding "
                "does not know, contradicts itself, or is too complex"
            )
        return matcher

    def allowed_ids(self, matcher: LLMatcher) -> TokenIds:
        """The tokens that a running matcher admits next, ``(A,)``, ascending, at least one."""
        packed: bytes = matcher.compute_bitmask()
        found = self._ids.get(packed)
        if found is None:  # few masks recur: unpacking 150,000 bits costs more than the lookup
            bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
            self._ids[packed] = found = np.flatnonzero(bits[: self.vocab_size])
            self._mask_bytes += _size(packed, found)
            while self._mask_bytes > _MASK_BYTES:
                self._mask_bytes -= _size(*self._ids.popitem(last=False))
        self._ids.move_to_end(packed)
        return found

    def spelling(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that tokens stand for."""
        return self._tokenizer.decode_bytes(list(token_ids))  # type: ignore[no-any-return]


def _size(packed: bytes, ids: TokenIds) -> int:
    """Bytes that a kept mask takes; the mask itself is most of it where few tokens are allowed."""
    return len(packed) + ids.nbytes


class RowConstraint:
    """One answer under way: what may come next, what must come next, and how sure the values are.

    Should the grammar engine give up (its limits per step), an answer under the lexicon is forced to end and
    does not parse; one under a question's own schema raises RuntimeError.

    Args:
        grammars: Of the model's tokenizer.
        spec: What the answer may say.
    """

    def __init__(self, grammars: Grammars, spec: RowSpec | JsonSpec) -> None:
        self._grammar = grammars
        self._matcher = grammars.matcher(spec)
        self._meter = ValueMeter(spec.organs()) if isinstance(spec, RowSpec) else None
        self.text = b""
        """Bytes written so far."""

    @property
    def value_probabilities(self) -> dict[str, float]:
        """Entity field -> probability of its value among the admissible ones, where there was a choice."""
        return self._meter.probabilities() if self._meter else {}

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
        allowed = self._grammar.allowed_ids(self._matcher)
        self._check()
        return allowed

    def choose(self, token_id: int, allowed: TokenIds, probabilities: npt.NDArray[np.float32]) -> None:
        """Take a token.

        Args:
            token_id: One of ``allowed``.
            allowed: What `allowed` gave at this step, ``(A,)``.
            probabilities: Of each of them, ``(A,)``, summing to 1.
        """
        if self.is_finished():
            return
        if len(allowed) > 1 and self._meter:
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
        self._check()

    def _check(self) -> None:
        if self._meter is None and self._matcher.is_error():
            raise RuntimeError("the grammar engine gave up on an answer")
