from __future__ import annotations

import pytest
import torch
from tests.model.tiny import tiny_config
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sonoloop.model.kv_arena import KVArena, arena_attention, plan_step

NUM_HEADS, NUM_KEY_HEADS, HEAD_DIM = 4, 2, 16


def an_arena(num_slots: int = 3, capacity: int = 40) -> KVArena:
    arena = KVArena(tiny_config().text_config, dtype=torch.float32, device=torch.device("cpu"))
    arena.resize(num_slots, capacity)
    return arena


class Rows:
    """Keys, values and queries of each row, kept apart: the slow and obvious way."""

    def __init__(self, num_slots: int) -> None:
        self.keys = [torch.zeros(NUM_KEY_HEADS, 0, HEAD_DIM) for _ in range(num_slots)]
        self.values = [torch.zeros(NUM_KEY_HEADS, 0, HEAD_DIM) for _ in range(num_slots)]

    def attend(self, slot: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``(H, n, d)`` queries of the newest n tokens -> ``(n, H, d)``."""
        self.keys[slot] = torch.cat([self.keys[slot], key], dim=1)
        self.values[slot] = torch.cat([self.values[slot], value], dim=1)
        groups = NUM_HEADS // NUM_KEY_HEADS
        keys, values = (t.repeat_interleave(groups, dim=0) for t in (self.keys[slot], self.values[slot]))
        seen = torch.ones(query.shape[1], keys.shape[1], dtype=torch.bool).tril(
            keys.shape[1] - query.shape[1]
        )
        return scaled_dot_product_attention(query, keys, values, attn_mask=seen).transpose(0, 1)


def step(arena: KVArena, rows: Rows, fed: list[tuple[int, int]], lengths: list[int]) -> None:
    """One step through both; they must agree."""
    plan = plan_step(fed, lengths, dtype=torch.float32, device="cpu")
    total = sum(count for _, count in fed)
    query = torch.randn(1, NUM_HEADS, total, HEAD_DIM)
    key, value = torch.randn(2, 1, NUM_KEY_HEADS, total, HEAD_DIM).unbind(0)
    arena.plan = plan
    out, _ = arena_attention(None, query, *arena.update(key, value, 0), plan)
    begin = 0
    for slot, count in fed:
        here = slice(begin, begin + count)
        expected = rows.attend(slot, query[0, :, here], key[0, :, here], value[0, :, here])
        torch.testing.assert_close(out[0, here], expected, atol=1e-5, rtol=1e-5)
        begin += count
        lengths[slot] += count


def test_rows_of_any_length_attend_to_themselves_alone() -> None:
    torch.manual_seed(0)
    arena, rows, lengths = an_arena(), Rows(3), [0, 0, 0]
    step(arena, rows, [(0, 7), (1, 12)], lengths)  # two prompts
    step(arena, rows, [(0, 1), (1, 1), (2, 5)], lengths)  # two rows write while a third reads
    step(arena, rows, [(0, 1), (1, 4), (2, 1)], lengths)  # forced text in the middle
    step(arena, rows, [(2, 1)], lengths)  # others wait
    step(arena, rows, [(0, 1), (1, 1), (2, 1)], lengths)


def test_a_prompt_read_in_chunks_sees_its_beginning() -> None:
    torch.manual_seed(1)
    arena, rows, lengths = an_arena(1), Rows(1), [0]
    for count in (5, 6, 1, 3):
        step(arena, rows, [(0, count)], lengths)


def test_a_moved_row_goes_on_in_its_new_slot() -> None:
    torch.manual_seed(2)
    arena, rows, lengths = an_arena(), Rows(3), [0, 0, 0]
    step(arena, rows, [(0, 3), (1, 9), (2, 6)], lengths)
    arena.move(2, 0, lengths[2])
    rows.keys[0], rows.values[0], lengths[0] = rows.keys[2], rows.values[2], lengths[2]
    step(arena, rows, [(0, 1), (1, 1)], lengths[:2])


def test_a_restored_beginning_is_the_one_that_was_kept() -> None:
    torch.manual_seed(3)
    arena, rows, lengths = an_arena(), Rows(3), [0, 0, 0]
    step(arena, rows, [(0, 8), (1, 2)], lengths)
    saved = arena.snapshot(0, 4)
    step(arena, rows, [(0, 1), (1, 1)], lengths)
    arena.restore(2, saved)
    rows.keys[2], rows.values[2] = rows.keys[0][:, :4], rows.values[0][:, :4]
    lengths[2] = 4
    step(arena, rows, [(2, 3)], lengths)


def test_memory_is_what_the_sizes_say() -> None:
    arena = an_arena(2, 50)
    tensors = (*arena._keys, *arena._values)
    assert sum(tensor.nbytes for tensor in tensors) == 2 * 50 * arena.bytes_per_token


def test_a_new_shape_keeps_what_rows_hold_and_empties_the_rest() -> None:
    torch.manual_seed(0)
    arena = an_arena(2, 10)
    for tensor in (*arena._keys, *arena._values):
        tensor[0, :, :4].normal_()
        tensor[1, :, :7].normal_()
    held = [arena.snapshot(0, 4), arena.snapshot(1, 7)]
    arena.resize(4, 12, lengths=[4, 7])
    assert (arena.num_slots, arena.capacity) == (4, 12)
    for slot, before in enumerate(held):
        for tensor, part in zip((*arena._keys, *arena._values), before, strict=True):
            assert tensor[slot, :, : part.shape[1]].equal(part)
            assert not tensor[slot, :, part.shape[1] :].any()
    arena.clear(1, 7)
    assert not any(tensor[1:].any() for tensor in (*arena._keys, *arena._values))


def test_a_step_without_a_plan_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="plan"):
        an_arena().update(torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 16), 0)
