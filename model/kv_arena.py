"""Keys and values of all rows under way, and attention over rows of different length without padding them.

Shape letters: S slots, A slots in use (always the first A), C capacity of a slot in tokens, L longest row,
H query heads, G key heads, Q = H / G, d head width, N tokens of one step over all rows.

A step feeds N tokens of any rows: one token of each row that is writing, many of a row that is reading. The
linear layers see one flat sequence ``(1, N, D)``; only attention knows rows. Rows that feed one token are
attended together over the arena in place: nothing is gathered, and keys are not repeated to query heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from sonoloop.model.configuration import EchoVLMTextConfig

ATTENTION = "sonoloop_arena"
"""Name under which `arena_attention` is known to transformers."""


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """Several tokens that one row feeds in a step: ``begin`` and ``count`` in the flat sequence."""

    slot: int
    begin: int
    count: int
    start: int
    """Tokens that the row held before."""


@dataclass(frozen=True, eq=False, slots=True)
class StepPlan:
    """Where the N tokens of a step belong.

    Attributes:
        slots_N: Slot of each token, int64.
        places_N: Its place in the slot, int64.
        singles: Flat indices of the tokens of rows that feed exactly one, int64; None where no row does.
        bias_A: Additive mask ``(A, 1, 1, L)`` for those rows: 0 or -inf, in the dtype of the queries.
        runs: The rows that feed more.
    """

    slots_N: Tensor
    places_N: Tensor
    singles: Tensor | None
    bias_A: Tensor
    runs: tuple[Run, ...]


def plan_step(fed: list[tuple[int, int]], lengths: list[int], *, dtype: torch.dtype, device: Any) -> StepPlan:
    """Lay out one step.

    Args:
        fed: ``(slot, number of tokens)`` of each feeding row, in the order of the flat sequence.
        lengths: Tokens that each slot in use holds before the step, ``A`` of them.
        dtype: Of queries and keys.
        device: Of the model.
    """
    slots: list[int] = []
    places: list[int] = []
    singles: list[int] = []
    runs: list[Run] = []
    after = list(lengths)
    for slot, count in fed:
        start = lengths[slot]
        if count == 1:
            singles.append(len(slots))
        else:
            runs.append(Run(slot, len(slots), count, start))
        slots += [slot] * count
        places += range(start, start + count)
        after[slot] += count
    single_slots = [slots[index] for index in singles]
    longest = max((after[slot] for slot in single_slots), default=1)
    length_A = torch.tensor([max(1, min(length, longest)) for length in after], device=device)
    hidden_AL = torch.arange(longest, device=device)[None, :] >= length_A[:, None]
    bias_AL = torch.zeros(hidden_AL.shape, dtype=dtype, device=device).masked_fill_(hidden_AL, float("-inf"))
    return StepPlan(
        slots_N=torch.tensor(slots, device=device),
        places_N=torch.tensor(places, device=device),
        singles=torch.tensor(singles, device=device) if singles else None,
        bias_A=bias_AL[:, None, None, :],
        runs=tuple(runs),
    )


class KVArena:
    """One pair of tensors ``(S, G, C, d)`` per layer; stands where transformers expects a cache.

    Args:
        config: Of the decoder.
        dtype: Of keys and values.
        device: Of the model.
    """

    def __init__(self, config: EchoVLMTextConfig, *, dtype: torch.dtype, device: torch.device) -> None:
        self._num_layers = config.num_hidden_layers
        self._num_heads = config.num_key_value_heads
        self._head_dim = config.hidden_size // config.num_attention_heads
        self._dtype, self._device = dtype, device
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.plan: StepPlan | None = None

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token takes over all layers."""
        return int(2 * self._num_layers * self._num_heads * self._head_dim * self._dtype.itemsize)

    @property
    def num_slots(self) -> int:
        """Slots that there is room for."""
        return self._keys[0].shape[0] if self._keys else 0

    @property
    def capacity(self) -> int:
        """Tokens that each slot has room for."""
        return self._keys[0].shape[2] if self._keys else 0

    def resize(self, num_slots: int, capacity: int, lengths: Sequence[int] = ()) -> None:
        """Make the tensors anew, layer by layer: two of one layer stand side by side at most.

        Args:
            num_slots: Of the new tensors.
            capacity: Of each slot.
            lengths: Tokens that the first slots hold now and go on to hold; the others are empty.

        Raises:
            RuntimeError: there is not enough memory; the arena is empty then.
        """
        shape = (num_slots, self._num_heads, capacity, self._head_dim)
        longest = max(lengths, default=0)
        old = [self._keys, self._values] if longest else [[], []]
        self._keys, self._values = [], []
        made: tuple[list[Tensor], list[Tensor]] = ([], [])
        for layer in range(self._num_layers):
            for tensors, before in zip(made, old, strict=True):
                # zeros, not empty: a masked key that is not finite would still spoil the sum of values
                tensors.append(torch.zeros(shape, dtype=self._dtype, device=self._device))
                if before:
                    kept = before.pop(0)[: len(lengths), :, :longest]
                    tensors[layer][: len(lengths), :, :longest] = kept  # behind a shorter row it is empty
        self._keys, self._values = made

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Store a step's keys and values ``(1, G, N, d)``; returns the layer's whole tensors."""
        assert self.plan is not None, "a step needs a plan"
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self.plan.slots_N, :, self.plan.places_N] = key_states[0].transpose(0, 1)
        values[self.plan.slots_N, :, self.plan.places_N] = value_states[0].transpose(0, 1)
        return keys, values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot to another."""
        for tensor in (*self._keys, *self._values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self, slot: int, length: int) -> None:
        """Empty the first ``length`` tokens of a slot."""
        for tensor in (*self._keys, *self._values):
            tensor[slot, :, :length] = 0

    def snapshot(self, slot: int, length: int) -> tuple[Tensor, ...]:
        """Copies of a slot's first ``length`` tokens, for `restore`."""
        return tuple(tensor[slot, :, :length].clone() for tensor in (*self._keys, *self._values))

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Begin a slot with what `snapshot` gave."""
        for tensor, part in zip((*self._keys, *self._values), saved, strict=True):
            tensor[slot, :, : part.shape[1]] = part


def use_arena_attention(config: EchoVLMTextConfig) -> None:
    """Let a decoder attend through an arena from now on; its forward then takes a plan as its mask."""
    AttentionInterface.register(ATTENTION, arena_attention)
    config._attn_implementation = ATTENTION


def arena_attention(
    _: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: StepPlan,
    scaling: float | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """Attend each row's new tokens to the row; the plan of the step travels in the mask's place.

    Args:
        query: ``(1, H, N, d)``.
        key: ``(S, G, C, d)``, the new tokens included.
        value: As ``key``.
        attention_mask: The plan.
        scaling: Of the scores.

    Returns:
        ``(1, N, H, d)``, and no weights.
    """
    plan, query_NHd = attention_mask, query[0].transpose(0, 1)
    out_NHd = torch.empty_like(query_NHd)
    if plan.singles is not None:
        out_NHd[plan.singles] = _attend_singles(query_NHd, key, value, plan, plan.singles, scaling)
    for run in plan.runs:
        here = slice(run.begin, run.begin + run.count)
        out_NHd[here] = _attend_run(query[:, :, here], key, value, run, scaling)
    return out_NHd[None], None


def _attend_singles(
    query_NHd: Tensor, key: Tensor, value: Tensor, plan: StepPlan, singles: Tensor, scaling: float | None
) -> Tensor:
    """All rows that feed one token, at once: the Q query heads of a key head are its queries."""
    num_slots, _, _, longest = plan.bias_A.shape
    _, num_heads, width = query_NHd.shape
    slots = plan.slots_N[singles]
    query_AHd = query_NHd.new_zeros(num_slots, num_heads, width)
    query_AHd[slots] = query_NHd[singles]
    query_AGQd = query_AHd.view(num_slots, key.shape[1], -1, width)
    out_AGQd = scaled_dot_product_attention(
        query_AGQd,
        key[:num_slots, :, :longest],
        value[:num_slots, :, :longest],
        attn_mask=plan.bias_A.expand(-1, -1, query_AGQd.shape[2], -1),
        scale=scaling,
    )
    return out_AGQd.reshape(num_slots, num_heads, width)[slots]


def _attend_run(query: Tensor, key: Tensor, value: Tensor, run: Run, scaling: float | None) -> Tensor:
    """One row's run of tokens, each attending to the row up to itself."""
    end = run.start + run.count
    groups = query.shape[1] // key.shape[1]
    key, value = (
        tensor[run.slot : run.slot + 1, :, :end].repeat_interleave(groups, dim=1) for tensor in (key, value)
    )
    if run.start == 0:
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    else:
        seen = torch.ones(run.count, end, dtype=torch.bool, device=query.device).tril(run.start)
        out = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
    return out[0].transpose(0, 1)
