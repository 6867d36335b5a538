"""Continuous batching: rows enter and leave the running batch one by one.

Every row reads its prompt, writes an answer, reads the next turn's text, and so on, in one slot of the arena,
so that nothing is read twice. A step feeds what each row has waiting: one token of a row that writes, a chunk
of a row that reads. A row that is done frees its slot at once, and the next request takes it.

Shape letters: N tokens of a step, R rows whose next token is wanted, V vocabulary, A tokens that a row may
take, D model width.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from sonoloop.model.generation import Outcome, Request, Token, TurnAnswer, model_failed
from sonoloop.model.kv_arena import plan_step
from sonoloop.model.modeling import RouterSink
from sonoloop.model.runner import EmbeddedPrompt, ModelRunner
from sonoloop.model.sampling import choose, draw, most_likely
from sonoloop.model.structured import Grammars, RowConstraint

_MIN_SHARED = 16
"""Shared prompt beginnings shorter than this are cheaper to read again than to keep."""
_NUM_PREFIXES = 8
_CAPACITY_STEP = 64
"""Slots grow in steps of so many tokens, so that requests of like length reuse the arena."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be in memory at once.

    Attributes:
        max_rows: Requests under way at the same time.
        max_cached_tokens: Tokens of keys and values: of all slots, used or not, and of kept beginnings.
        max_step_tokens: Tokens that one step feeds; longer prompts are read in chunks.
    """

    max_rows: int
    max_cached_tokens: int
    max_step_tokens: int


@dataclass(eq=False, slots=True)
class Row:
    """A request under way.

    Attributes:
        request: What is asked.
        prompt: Embedded when the row first enters.
        slot: Its place in the arena while it is inside.
        length: Tokens that the slot holds.
        text: All tokens after the prompt, read and to be read: answers, their ends, the texts between.
        answer: Tokens of the turn's answer so far.
        num_told: How many of them were told of.
    """

    request: Request
    prompt: EmbeddedPrompt | None = None
    slot: int = -1
    length: int = 0
    text: list[int] = field(default_factory=list)
    answer: list[Token] = field(default_factory=list)
    num_told: int = 0
    answers: list[TurnAnswer] = field(default_factory=list)
    is_over: bool = False
    constraint: RowConstraint | None = None
    generator: torch.Generator | None = None

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt.token_ids)

    @property
    def prompt_left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return max(0, self.num_prompt - self.length)

    @property
    def num_waiting(self) -> int:
        """Tokens that are still to be read."""
        return self.num_prompt + len(self.text) - self.length


class Scheduler:
    """Runs rows on one model; a `sonoloop.model.live.Stepper`.

    Args:
        runner: The model.
        grammars: Of constrained turns; None where there are none.
        end_ids: Tokens that end an answer; the first of them is what the conversation goes on with.
        limits: Bounds of rows and memory.
    """

    def __init__(
        self, runner: ModelRunner, grammars: Grammars | None, end_ids: Sequence[int], limits: Limits
    ) -> None:
        self._runner, self._grammars, self._limits = runner, grammars, limits
        self.max_rows = limits.max_rows
        self._end_ids = tuple(end_ids)
        self._rows: list[Row] = []  # by slot
        self._prefixes: OrderedDict[tuple[int, ...], tuple[Tensor, ...]] = OrderedDict()
        self._num_embedded = 0

    def open(self, request: Request) -> Row:
        """A row, not yet inside; nothing is computed. Any thread may call."""
        row = Row(request)
        if request.sampling.temperature > 0:
            row.generator = torch.Generator().manual_seed(request.sampling.seed)
        self._begin_turn(row)
        return row

    @torch.inference_mode()
    def admit(self, row: Row) -> bool:
        """Give a row a slot, where memory allows and this step has not embedded much already."""
        longest_read = self._limits.max_step_tokens
        if self._rows and self._num_embedded and self._num_embedded + row.num_prompt > longest_read:
            return False  # rows that write wait for the images of those that enter
        if not self._make_room(row):
            return False
        self._num_embedded += row.num_prompt
        row.prompt = row.prompt or self._runner.embed_prompt(row.request.prompt)
        row.slot, row.length = len(self._rows), 0
        if row.request.usage is not None:
            row.request.usage.reset()  # one that was taken out is read from its beginning
        self._rows.append(row)
        shared = self._shared(row, row.prompt)
        if shared in self._prefixes:
            # kept longest, or a few questions would drive out what all drafts begin with
            self._prefixes.move_to_end(shared)
            self._runner.arena.restore(row.slot, self._prefixes[shared])
            row.length = row.prompt.num_shared
        return True

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, list[Token], Outcome | None]]:
        """Feed one step and let the rows that have read everything write; returns who wrote what."""
        self._num_embedded = 0
        fed = self._share_step()
        embeddings_ND, positions_3N = self._inputs_of(fed)
        last = [end - 1 for end in accumulate(count for _, count in fed)]
        plan = plan_step(
            [(row.slot, count) for row, count in fed],
            [row.length for row in self._rows],
            dtype=self._runner.model.dtype,
            device=self._runner.model.device,
        )
        sink: RouterSink | None = {} if any(row.request.usage is not None for row, _ in fed) else None
        writers = [(row, at) for (row, count), at in zip(fed, last, strict=True) if row.num_waiting == count]
        try:
            logits_RV = self._runner.step(
                embeddings_ND,
                positions_3N,
                plan,
                torch.tensor([at for _, at in writers], dtype=torch.int64, device=self._runner.model.device),
                sink,
            )
            log_probs_RV = logits_RV.log_softmax(dim=-1)  # as large again as the logits
            best_R = log_probs_RV.argmax(dim=-1)
        except Exception:
            for row, count in fed:  # whatever the step has stored, `remove` is to empty it
                row.length += count
            raise
        if sink is not None:
            self._count_experts(fed, sink)
        best = _tokens(best_R, log_probs_RV)
        for row, count in fed:
            self._advance(row, count)
        rows = [row for row, _ in writers]
        drawn = self._draw(rows, best, log_probs_RV)
        return [
            self._write_next(row, drawn.get(at, best[at]), logits_RV[at], log_probs_RV[at])
            for at, row in enumerate(rows)
        ]

    @torch.inference_mode()
    def remove(self, row: Row) -> None:
        """Free a row's slot; the last row moves there, so that the slots in use stay together.

        Slots are left empty: what is not finite in one would reach the next row there through its mask.
        """
        if not (0 <= row.slot < len(self._rows) and self._rows[row.slot] is row):
            return
        arena, last = self._runner.arena, self._rows.pop()
        arena.clear(row.slot, row.length)
        if last is not row:
            arena.move(last.slot, row.slot, last.length)
            arena.clear(last.slot, last.length)
            last.slot = row.slot
            self._rows[row.slot] = last
        row.slot, row.length = -1, 0

    def _count_experts(self, fed: list[tuple[Row, int]], sink: RouterSink) -> None:
        num_active = self._runner.model.config.text_config.num_experts_per_tok
        logits_LNE = torch.stack(list(sink.values()))
        parts = torch.split(logits_LNE, [count for _, count in fed], dim=1)
        for (row, _), part_LNE in zip(fed, parts, strict=True):
            if row.request.usage is not None:
                row.request.usage.add_layers(part_LNE, num_active)

    def _make_room(self, row: Row) -> bool:
        """See that the arena has a slot for a row, for the longest that it and the others can become."""
        arena, budget = self._runner.arena, self._limits.max_cached_tokens
        num_rows = len(self._rows) + 1
        longest = max(each.request.max_tokens() for each in (*self._rows, row))
        if num_rows * longest > budget:
            assert self._rows, "expected a request that was checked"
            return False
        if arena.num_slots >= num_rows and arena.capacity >= longest:
            return True
        rounded = math.ceil(longest / _CAPACITY_STEP) * _CAPACITY_STEP
        capacity = next(
            size for size in (max(rounded, arena.capacity), rounded, longest) if num_rows * size <= budget
        )
        doubled = min(2 * len(self._rows), self.max_rows, budget // capacity)
        num_slots = max(num_rows, arena.num_slots if arena.num_slots * capacity <= budget else 0, doubled)
        self._keep_prefixes_within(budget - num_slots * capacity)
        arena.resize(num_slots, capacity, [each.length for each in self._rows])
        return True

    def _shared(self, row: Row, prompt: EmbeddedPrompt) -> tuple[int, ...]:
        """The tokens before a prompt's first image, where they are worth keeping."""
        worth_keeping = prompt.num_shared >= _MIN_SHARED
        return tuple(row.request.prompt.token_ids[: prompt.num_shared]) if worth_keeping else ()

    def _keep_prefix(self, row: Row, prompt: EmbeddedPrompt) -> None:
        arena, shared = self._runner.arena, self._shared(row, prompt)
        room = self._limits.max_cached_tokens - arena.num_slots * arena.capacity
        if shared and shared not in self._prefixes and len(shared) <= room:
            self._prefixes[shared] = arena.snapshot(row.slot, len(shared))
            self._keep_prefixes_within(room)

    def _keep_prefixes_within(self, num_tokens: int) -> None:
        while self._prefixes and (
            len(self._prefixes) > _NUM_PREFIXES or sum(map(len, self._prefixes)) > num_tokens
        ):
            self._prefixes.popitem(last=False)

    def _share_step(self) -> list[tuple[Row, int]]:
        """How many tokens each row feeds: rows that write first, then readers as far as the step allows."""
        left = self._limits.max_step_tokens
        shares = {}
        for row in sorted(self._rows, key=lambda row: row.num_waiting):
            shares[row.slot] = min(row.num_waiting, left)
            left -= shares[row.slot]
        return [(row, shares[row.slot]) for row in self._rows if shares[row.slot]]

    def _inputs_of(self, fed: list[tuple[Row, int]]) -> tuple[Tensor, Tensor]:
        """Embeddings ``(N, D)`` and positions ``(3, N)`` of what rows feed; texts are looked up together."""
        first = fed[0][0].prompt
        assert first is not None, "a row that entered has read its images"
        num = sum(count for _, count in fed)
        embeddings_ND = first.embeddings_TD.new_empty(num, first.embeddings_TD.shape[1])
        positions_3N = first.positions_3T.new_empty(3, num)
        text: list[tuple[int, int, int]] = []  # place in the step, token, position
        begin = 0
        for row, count in fed:
            assert row.prompt is not None, "a row that entered has read its images"
            from_prompt = min(count, row.prompt_left)
            if from_prompt:
                read, place = (slice(at, at + from_prompt) for at in (row.length, begin))
                embeddings_ND[place] = row.prompt.embeddings_TD[read]
                positions_3N[:, place] = row.prompt.positions_3T[:, read]
            after_prompt = row.length + from_prompt - row.num_prompt
            for offset in range(count - from_prompt):
                at = after_prompt + offset
                place_of = begin + from_prompt + offset
                text.append((place_of, row.text[at], row.prompt.next_position + at))
            begin += count
        if text:
            places_M, ids_M, positions_M = torch.tensor(text, device=positions_3N.device).unbind(dim=1)
            embeddings_ND[places_M] = self._runner.embed_tokens(ids_M)
            positions_3N[:, places_M] = positions_M
        return embeddings_ND, positions_3N

    def _draw(self, rows: list[Row], best: list[Token], log_probs_RV: Tensor) -> dict[int, Token]:
        """The tokens of rows that draw freely, all at once: one by one, a device is waited for each time."""
        drawing = [
            (at, (row.request.sampling, row.generator))
            for at, row in enumerate(rows)
            if row.generator is not None and row.constraint is None
            if not self._has_ended(row) and math.isfinite(best[at].log_prob)
        ]
        if not drawing:
            return {}
        places, ways = zip(*drawing, strict=True)
        own_RV = log_probs_RV[list(places)]
        taken_R = torch.tensor(draw(own_RV, ways), device=own_RV.device)
        return dict(zip(places, _tokens(taken_R, own_RV), strict=True))

    def _advance(self, row: Row, count: int) -> None:
        assert row.prompt is not None, "a row that entered has read its images"
        before = row.length
        row.length += count
        if before < row.prompt.num_shared <= row.length:
            self._keep_prefix(row, row.prompt)

    def _write_next(
        self, row: Row, token: Token, logits_V: Tensor, log_probs_V: Tensor
    ) -> tuple[Row, list[Token], Outcome | None]:
        """Let a row write one token, and what follows from it; returns what is to be told."""
        outcome: Outcome | None = None
        try:
            if not math.isfinite(token.log_prob):
                raise FloatingPointError("expected finite logits")
            if not self._has_ended(row):
                self._choose(row, token, logits_V, log_probs_V)
            told = row.answer[row.num_told :]
            row.num_told = len(row.answer)
            self._finish_turn(row)
        except (ArithmeticError, RuntimeError, ValueError, IndexError) as err:  # of this row alone
            told, outcome = [], model_failed(err)
        if outcome is None and row.is_over:
            outcome = row.answers
        if outcome is not None:
            self.remove(row)
        return row, told, outcome

    def _has_ended(self, row: Row) -> bool:
        return bool(row.answer) and row.answer[-1].token_id in self._end_ids

    def _choose(self, row: Row, free: Token, logits_V: Tensor, log_probs_V: Tensor) -> None:
        """Take the free choice; under a grammar one that it admits, and then whatever it forces."""
        sampling = row.request.sampling
        if row.constraint is None:
            self._write(row, [free._replace(top=most_likely(log_probs_V, sampling.num_top))])
            return
        allowed = row.constraint.allowed()
        log_probs_A = logits_V[torch.from_numpy(allowed).to(logits_V.device)].log_softmax(dim=-1)
        taken = choose(log_probs_A, sampling, row.generator)
        top = tuple((int(allowed[at]), p) for at, p in most_likely(log_probs_A, sampling.num_top))
        token = Token(int(allowed[taken]), float(log_probs_A[taken]), top)
        row.constraint.choose(token.token_id, allowed, log_probs_A.exp().cpu().numpy())
        self._write(row, [token])
        if not self._has_ended(row):
            self._write_forced(row, row.constraint.take_forced())

    def _write_forced(self, row: Row, token_ids: Sequence[int]) -> None:
        is_told = row.request.sampling.num_top > 0
        self._write(row, [Token(i, 0.0, ((i, 0.0),) if is_told else ()) for i in token_ids])

    def _write(self, row: Row, tokens: list[Token]) -> None:
        """Add to the answer, up to its limit, and queue for reading."""
        turn = row.request.turns[len(row.answers)]
        tokens = tokens[: turn.max_new_tokens - len(row.answer)]
        row.answer += tokens
        row.text += [token.token_id for token in tokens]
        if (
            tokens
            and row.constraint is not None
            and row.constraint.is_finished()
            and not self._has_ended(row)
        ):
            self._write_forced(row, self._end_ids[:1])  # the grammar leaves nothing else

    def _begin_turn(self, row: Row) -> None:
        """Queue what the turn's answer must begin with."""
        row.answer, row.num_told, row.constraint = [], 0, None
        spec = row.request.turns[len(row.answers)].constraint
        if spec is not None:
            assert self._grammars is not None, "a constrained turn needs a grammar"
            row.constraint = RowConstraint(self._grammars, spec)
            self._write_forced(row, row.constraint.take_forced())

    def _finish_turn(self, row: Row) -> None:
        """Close the turn if its answer ended or reached its limit, and begin the next."""
        turns, ended = row.request.turns, self._has_ended(row)
        if not ended and len(row.answer) < turns[len(row.answers)].max_new_tokens:
            return
        values = row.constraint.value_probabilities if row.constraint is not None else {}
        ids, log_probs = (
            tuple(column) for column in zip(*((t.token_id, t.log_prob) for t in row.answer), strict=True)
        )
        row.answers.append(TurnAnswer(ids, log_probs, values, ended))
        row.is_over = not ended or len(row.answers) == len(turns)
        if not row.is_over:
            row.text[-1:] = [self._end_ids[0], *turns[len(row.answers)].text_ids]
            self._begin_turn(row)


def _tokens(ids_R: Tensor, log_probs_RV: Tensor) -> list[Token]:
    """Chosen tokens with what each was given."""
    found_R = log_probs_RV.gather(1, ids_R[:, None])[:, 0]
    return list(map(Token, ids_R.tolist(), found_R.tolist()))
