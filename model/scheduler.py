"""Continuous batching: rows enter and leave the running batch one by one.

Every row reads its prompt, writes an answer, reads the next turn's text, and so on, in one slot of the arena,
so that nothing is read twice. A step feeds what each row has waiting: one token of a row that writes, a chunk
of a row that reads. A row that is done frees its slot at once, and the next request takes it.

Shape letters: N tokens of a step, R rows whose next token is wanted, V vocabulary, D model width.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sonoloop.model.generation import Progress, Request, TurnAnswer
from sonoloop.model.kv_arena import plan_step
from sonoloop.model.runner import EmbeddedPrompt, ModelRunner
from sonoloop.model.structured import EntitiesGrammar, RowConstraint

_MIN_SHARED = 16
"""Shared prompt beginnings shorter than this are cheaper to read again than to keep."""
_NUM_PREFIXES = 8
_CAPACITY_STEP = 64
"""Slots grow in steps of so many tokens, so that batches of like length reuse the arena."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be in memory at once.

    Attributes:
        max_rows: Requests under way at the same time.
        max_cached_tokens: Tokens of keys and values, over all slots, used or not.
        max_step_tokens: Tokens that one step feeds; longer prompts are read in chunks.
    """

    max_rows: int
    max_cached_tokens: int
    max_step_tokens: int


@dataclass(eq=False, slots=True)
class _Row:
    """A request under way."""

    index: int
    request: Request
    prompt: EmbeddedPrompt
    slot: int
    length: int = 0
    turn: int = 0
    waiting: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    answers: list[TurnAnswer] = field(default_factory=list)
    constraint: RowConstraint | None = None
    generator: torch.Generator | None = None

    @property
    def prompt_left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return max(0, len(self.request.prompt.token_ids) - self.length)

    @property
    def num_waiting(self) -> int:
        return self.prompt_left + len(self.waiting)


class Scheduler:
    """Runs requests on one model.

    Args:
        runner: The model.
        grammar: For constrained turns; None where there are none.
        end_ids: Tokens that end an answer; the first of them is what the conversation goes on with.
        limits: Bounds of rows and memory.
    """

    def __init__(
        self, runner: ModelRunner, grammar: EntitiesGrammar | None, end_ids: Sequence[int], limits: Limits
    ) -> None:
        self._runner, self._grammar, self._limits = runner, grammar, limits
        self._end_ids = tuple(end_ids)
        self._prefixes: OrderedDict[tuple[int, ...], tuple[Tensor, ...]] = OrderedDict()

    def run(self, requests: Sequence[Request]) -> Progress:
        """Answer requests; closing the iterator stops the model.

        Yields:
            ``(request index, new token ids, answers)`` after each step for each row that wrote; ``answers``
            is None until the row is done.
        """
        waiting = deque(sorted(range(len(requests)), key=lambda i: -requests[i].max_tokens()))
        rows: list[_Row] = []
        num_slots = 0
        while waiting or rows:
            if not rows:  # the longest request left sets the size of the slots
                num_slots = self._reserve(requests[waiting[0]].max_tokens(), len(waiting))
            while waiting and len(rows) < num_slots:
                index = waiting.popleft()
                rows.append(self._enter(index, requests[index], slot=len(rows)))
            for row, token_ids in self._step(rows):
                done = row.turn == len(row.request.turns)
                yield row.index, token_ids, row.answers if done else None
            rows = self._leave(rows)

    def _reserve(self, longest: int, num_waiting: int) -> int:
        """Make slots for the longest request; returns how many."""
        rounded = math.ceil(longest / _CAPACITY_STEP) * _CAPACITY_STEP
        capacity = max(longest, min(rounded, self._limits.max_cached_tokens))
        num_slots = min(self._limits.max_rows, num_waiting, self._limits.max_cached_tokens // capacity)
        num_slots = max(1, num_slots)
        self._runner.arena.reserve(num_slots, capacity)
        return num_slots

    def _enter(self, index: int, request: Request, slot: int) -> _Row:
        row = _Row(index, request, self._runner.embed_prompt(request.prompt), slot)
        if request.sampling.temperature > 0:
            row.generator = torch.Generator().manual_seed(request.sampling.seed)
        saved = self._prefixes.get(self._shared(row))
        if saved is not None:
            self._runner.arena.restore(slot, saved)
            row.length = row.prompt.num_shared
        self._begin_turn(row)
        return row

    def _shared(self, row: _Row) -> tuple[int, ...]:
        """The tokens before a prompt's first image, where they are worth keeping."""
        num_shared = row.prompt.num_shared
        return tuple(row.request.prompt.token_ids[:num_shared]) if num_shared >= _MIN_SHARED else ()

    def _keep_prefix(self, row: _Row) -> None:
        shared = self._shared(row)
        if shared and shared not in self._prefixes:
            self._prefixes[shared] = self._runner.arena.snapshot(row.slot, len(shared))
            if len(self._prefixes) > _NUM_PREFIXES:
                self._prefixes.popitem(last=False)

    def _begin_turn(self, row: _Row) -> None:
        """Queue what the turn's answer must begin with."""
        row.constraint = None
        spec = row.request.turns[row.turn].constraint
        if spec is not None:
            assert self._grammar is not None, "a constrained turn needs a grammar"
            row.constraint = RowConstraint(self._grammar, spec)
            self._write(row, row.constraint.take_forced(), 0.0)

    def _step(self, rows: list[_Row]) -> list[tuple[_Row, list[int]]]:
        """Feed one step and let the rows that have read everything write; returns who wrote what."""
        fed = self._share_step(rows)
        embeddings, positions, last = [], [], []
        position = -1
        for row, count in fed:
            embedded, placed = self._next_inputs(row, count)
            embeddings.append(embedded)
            positions.append(placed)
            position += count
            last.append(position)
        plan = plan_step(
            [(row.slot, count) for row, count in fed],
            [row.length for row in rows],
            dtype=self._runner.model.dtype,
            device=self._runner.model.device,
        )
        writers = [(row, at) for (row, count), at in zip(fed, last, strict=True) if row.num_waiting == count]
        logits_RV = self._runner.step(
            torch.cat(embeddings),
            torch.cat(positions, dim=1),
            plan,
            torch.tensor([at for _, at in writers], dtype=torch.int64, device=self._runner.model.device),
        )
        for row, count in fed:
            self._advance(row, count)
        return self._write_next([row for row, _ in writers], logits_RV)

    def _share_step(self, rows: list[_Row]) -> list[tuple[_Row, int]]:
        """How many tokens each row feeds: rows that write first, then readers as far as the step allows."""
        left = self._limits.max_step_tokens
        shares = {}
        for row in sorted(rows, key=lambda row: row.num_waiting):
            shares[row.slot] = min(row.num_waiting, left)
            left -= shares[row.slot]
        return [(row, shares[row.slot]) for row in rows if shares[row.slot]]

    def _next_inputs(self, row: _Row, count: int) -> tuple[Tensor, Tensor]:
        """Embeddings ``(count, D)`` and positions ``(3, count)`` of a row's next tokens."""
        from_prompt = min(count, row.prompt_left)
        rest = row.waiting[: count - from_prompt]
        begin, end = row.length, row.length + from_prompt
        embeddings, positions = row.prompt.embeddings_TD[begin:end], row.prompt.positions_3T[:, begin:end]
        if not rest:
            return embeddings, positions
        device = positions.device
        first = row.prompt.next_position + max(0, row.length - len(row.request.prompt.token_ids))
        text_3N = torch.arange(first, first + len(rest), device=device).expand(3, -1)
        text_ND = self._runner.embed_tokens(torch.tensor(rest, device=device))
        return torch.cat([embeddings, text_ND]), torch.cat([positions, text_3N], dim=1)

    def _advance(self, row: _Row, count: int) -> None:
        before, from_prompt = row.length, min(count, row.prompt_left)
        row.waiting = row.waiting[count - from_prompt :]
        row.length += count
        if before < row.prompt.num_shared <= row.length:
            self._keep_prefix(row)

    def _write_next(self, rows: list[_Row], logits_RV: Tensor) -> list[tuple[_Row, list[int]]]:
        log_probs_RV = logits_RV.log_softmax(dim=-1)
        best_R = log_probs_RV.argmax(dim=-1)
        best = list(zip(best_R.tolist(), log_probs_RV.gather(1, best_R[:, None])[:, 0].tolist(), strict=True))
        written = []
        for position, row in enumerate(rows):
            before = len(row.token_ids)
            if row.constraint is not None:
                self._choose(row, row.constraint, logits_RV[position])
            elif row.generator is None:
                self._write(row, [best[position][0]], best[position][1])
            else:
                self._draw(row, log_probs_RV[position], row.generator)
            written.append((row, row.token_ids[before:]))
            self._finish_turns(row)
        return written

    def _draw(self, row: _Row, log_probs_V: Tensor, generator: torch.Generator) -> None:
        scaled_V = (log_probs_V / row.request.sampling.temperature).softmax(dim=-1).cpu()
        token_id = int(torch.multinomial(scaled_V, 1, generator=generator))
        self._write(row, [token_id], float(log_probs_V[token_id]))

    def _choose(self, row: _Row, constraint: RowConstraint, logits_V: Tensor) -> None:
        """The most likely token that the grammar admits, and whatever it then forces."""
        allowed = constraint.allowed()
        log_probs_A = logits_V[torch.from_numpy(allowed).to(logits_V.device)].log_softmax(dim=-1)
        best = int(log_probs_A.argmax())
        constraint.choose(int(allowed[best]), allowed, log_probs_A.exp().cpu().numpy())
        self._write(row, [int(allowed[best])], float(log_probs_A[best]))
        if row.token_ids[-1] not in self._end_ids:
            self._write(row, constraint.take_forced(), 0.0)

    def _write(self, row: _Row, token_ids: list[int], log_prob: float) -> None:
        """Add to the answer, up to its limit, and queue for reading."""
        token_ids = token_ids[: row.request.turns[row.turn].max_new_tokens - len(row.token_ids)]
        row.token_ids += token_ids
        row.log_probs += [log_prob] * len(token_ids)
        row.waiting += token_ids
        finished = row.constraint is not None and row.constraint.is_finished()
        if token_ids and finished and row.token_ids[-1] not in self._end_ids:
            self._write(row, [self._end_ids[0]], 0.0)  # the grammar leaves nothing else

    def _finish_turns(self, row: _Row) -> None:
        """Close the turn if its answer ended or reached its limit, and begin the next."""
        turns = row.request.turns
        ended = bool(row.token_ids) and row.token_ids[-1] in self._end_ids
        if not ended and len(row.token_ids) < turns[row.turn].max_new_tokens:
            return
        values = row.constraint.value_probabilities if row.constraint is not None else {}
        row.answers.append(TurnAnswer(tuple(row.token_ids), tuple(row.log_probs), values, ended))
        row.token_ids, row.log_probs = [], []
        row.turn = row.turn + 1 if ended else len(turns)
        if row.turn < len(turns):
            row.waiting[-1:] = [self._end_ids[0], *turns[row.turn].text_ids]
            self._begin_turn(row)

    def _leave(self, rows: list[_Row]) -> list[_Row]:
        """Drop finished rows; the last rows move into their slots, so that the slots in use stay together."""
        kept = [row for row in rows if row.turn < len(row.request.turns)]
        free = sorted({row.slot for row in rows} - {row.slot for row in kept})
        for row in sorted(kept, key=lambda row: -row.slot):
            if not free or free[0] > row.slot:
                break
            self._runner.arena.move(row.slot, free[0], row.length)
            row.slot = free.pop(0)
        return sorted(kept, key=lambda row: row.slot)
