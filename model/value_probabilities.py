"""How probable each entity value was among its admissible ones, measured while it is written.

A value is written in several tokens, and one token may begin several values (``hyper`` of ``hypoechoic`` and
``hyperechoic``). At each step the tokens that the grammar admits are grouped by the values they can still
become; the share of the group that the chosen token belongs to is multiplied over the steps. Where spellings
do not overlap this is the exact probability of the value under constrained sampling, all spellings counted; a
token that could still become the chosen value and others counts wholly for the chosen one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sonoloop.platform.lexicon import Organ, field_values

_WORD = re.compile(rb'"(\w+)":"([^"]*)$')
_NUMBER = re.compile(rb'"(\w+)":(\d*)$')
_ORGAN = re.compile(rb'^\{"organ":"([^"]*)"')


class ValueMeter:
    """Follows one answer.

    Args:
        organs: The organs that the answer may name.
    """

    def __init__(self, organs: tuple[Organ, ...]) -> None:
        self._organs = organs
        self._probabilities: dict[str, float] = {}

    def probabilities(self) -> dict[str, float]:
        """Entity field -> probability of the value written for it; fields without a choice are absent."""
        return dict(self._probabilities)

    def note(
        self,
        text: bytes,
        forced: bytes,
        spellings: Mapping[int, bytes],
        probabilities: npt.NDArray[np.float32],
        chosen_id: int,
    ) -> None:
        """Account for one chosen token.

        Args:
            text: The answer before it.
            forced: Bytes that must follow ``text`` in any case.
            spellings: Token id -> its bytes, for the tokens that were allowed, in the order of the next.
            probabilities: Of each allowed token, ``(A,)``, summing to 1.
            chosen_id: The token taken.
        """
        ahead = text + forced
        if word := _WORD.search(ahead):
            field, prefix = word[1].decode(), word[2]
            values = [value for value in self._values(text, field) if value.startswith(prefix)]
            tails = [forced + value[len(prefix) :] + b'"' for value in values]
            share = _share_of_group(spellings, probabilities, chosen_id, tails)
        elif number := _NUMBER.search(ahead):
            field, share = number[1].decode(), float(probabilities[list(spellings).index(chosen_id)])
        else:
            return
        self._probabilities[field] = self._probabilities.get(field, 1.0) * share

    def _values(self, text: bytes, field: str) -> list[bytes]:
        if field == "organ":
            return [organ.encode() for organ in self._organs]
        named = _ORGAN.match(text)
        organs = [organ for organ in self._organs if named and organ.encode() == named[1]]
        return [value.encode() for organ in organs for value in field_values(organ, field)]


def _share_of_group(
    spellings: Mapping[int, bytes],
    probabilities: npt.NDArray[np.float32],
    chosen_id: int,
    tails: list[bytes],
) -> float:
    """Probability of all tokens that can still become one of the values that the chosen one can become."""
    kept = [tail for tail in tails if _agree(spellings[chosen_id], tail)]
    together = [any(_agree(spelling, tail) for tail in kept) for spelling in spellings.values()]
    if not any(together):
        return 1.0
    return min(1.0, float(probabilities[np.array(together)].sum()))


def _agree(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)
