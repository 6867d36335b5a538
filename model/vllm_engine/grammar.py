"""The lexicon's grammar inside vLLM, spelled as our own backend spells it.

Where the grammar leaves the text no choice, several tokenisations of it still satisfy vLLM's own mask, and a
weak model takes one that training never showed. Ours admits the tokenizer's spelling alone, so both backends
write the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from vllm.v1.structured_output.backend_guidance import GuidanceBackend, GuidanceGrammar
from vllm.v1.structured_output.backend_types import StructuredOutputOptions


@dataclass
class SpelledGrammar(GuidanceGrammar):  # type: ignore[misc]  # no vLLM where types are checked
    """One answer's matcher, and the tokens that it has to write next in any case."""

    forced: list[int] = field(default_factory=list)

    def fill_bitmask(self, bitmask: Tensor, idx: int) -> None:
        """Write row ``idx`` of the mask ``(rows, vocabulary / 32)``, int32, one bit per token."""
        if not self.forced and not self.ll_matcher.is_stopped():
            self.forced = list(self.ll_matcher.compute_ff_tokens())
        if not self.forced:
            super().fill_bitmask(bitmask, idx)
            return
        word, bit = divmod(self.forced[0], 32)
        bitmask[idx].zero_()
        bitmask[idx, word] = 1 << bit if bit < 31 else -(1 << 31)

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Advance by what was written; returns whether the grammar admits it."""
        self.forced = self.forced[len(tokens) :]
        accepted: bool = super().accept_tokens(request_id, tokens)
        return accepted

    def rollback(self, num_tokens: int) -> None:
        """Take tokens back."""
        self.forced = []
        super().rollback(num_tokens)


@dataclass
class SpelledGuidance(GuidanceBackend):  # type: ignore[misc]
    """vLLM's llguidance backend with `SpelledGrammar` in it."""

    def compile_grammar(
        self,
        request_type: StructuredOutputOptions,
        grammar_spec: str,
        stop_token_ids: set[int] | None = None,
    ) -> SpelledGrammar:
        """A fresh matcher."""
        made = super().compile_grammar(request_type, grammar_spec, stop_token_ids)
        return SpelledGrammar(
            ll_matcher=made.ll_matcher, ll_tokenizer=made.ll_tokenizer, vocab_size=made.vocab_size
        )
