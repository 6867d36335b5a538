"""One batch for all who ask: requests join between steps and leave when they are done, given up or failed.

A thread steps the batch while there is anything to answer and ends when there is not, so that an idle engine
computes nothing and holds nothing alive. Callers wait for events in queues of their own; a slow reader holds
nobody up.

Places are shared by call: one question is a call, a batch of drafts is a call. A free place goes to the call
with the fewest rows in the batch, the earliest first; and a few places beyond ``max_rows`` are kept for calls
that have none, so that a question need not wait for a draft to end.

A step that fails with several rows in it is tried again with half of them, and so on: what was written stays
written. A row that fails alone is rejected; the others go on together.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

from sonoloop.model.generation import Outcome, Progress, Request, Token, model_failed

logger = logging.getLogger(__name__)

R = TypeVar("R")
Event: TypeAlias = tuple[int, list[Token], Outcome | None]


def most_inside(max_rows: int) -> int:
    """Rows that may be inside at once, the places kept for calls without one included."""
    return max_rows + max(1, max_rows // 4)


class Stepper(Protocol[R]):
    """What computes: rows enter, are written step by step, and leave; one thread at a time does it.

    Attributes:
        max_rows: Rows that are to be inside at the same time; a few more may enter.
    """

    max_rows: int

    def open(self, request: Request) -> R:
        """A row, not yet inside. Any thread may call."""
        ...

    def admit(self, row: R) -> bool:
        """Let a row in; False: not now. An empty batch admits any request that was checked.

        A row that was removed goes on where it was.
        """
        ...

    def step(self) -> list[tuple[R, list[Token], Outcome | None]]:
        """Write; returns who wrote what. A row with an outcome is inside no more."""
        ...

    def remove(self, row: R) -> None:
        """Take a row out, whether it is inside or not."""
        ...


@dataclass(eq=False, slots=True)
class _Call(Generic[R]):
    """Requests of one caller.

    Attributes:
        streamed: Whether the caller wants single tokens.
        waiting: Those that have not entered yet; longest first, lest a long one runs alone at the end.
        num_inside: Rows in the batch, or taken out after a failed step.
        wanted: False once the caller has gone.
        left: Indices without an outcome.
        events: For the caller; an exception ends the call.
    """

    streamed: bool
    left: set[int]
    waiting: deque[_Place[R]] = field(default_factory=deque)
    num_inside: int = 0
    wanted: bool = True
    events: queue.SimpleQueue[Event | RuntimeError] = field(default_factory=queue.SimpleQueue)


@dataclass(eq=False, frozen=True, slots=True)
class _Place(Generic[R]):
    """A row, and whose it is."""

    call: _Call[R]
    index: int
    row: R


class LiveBatch(Generic[R]):
    """Runs requests of any number of threads through one stepper.

    Args:
        stepper: What computes.
    """

    def __init__(self, stepper: Stepper[R]) -> None:
        self._stepper = stepper
        self._spare = most_inside(stepper.max_rows) - stepper.max_rows
        self._lock = threading.Lock()
        self._calls: list[_Call[R]] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        # the batch's thread alone touches these
        self._inside: dict[R, _Place[R]] = {}
        self._again: deque[_Place[R]] = deque()
        self._most: int | None = None  # rows while those of a failed step are tried again

    def run(self, requests: Sequence[Request], *, streamed: bool) -> Progress:
        """Answer requests that were checked; closing the iterator takes them out.

        Args:
            requests: What to answer.
            streamed: Whether to tell of every step, or of outcomes alone.

        Raises:
            RuntimeError: The batch was closed.
        """
        order = sorted(range(len(requests)), key=lambda i: -requests[i].max_tokens())
        call: _Call[R] = _Call(streamed, left=set(order))
        call.waiting.extend(_Place(call, index, self._stepper.open(requests[index])) for index in order)
        self._enter(call)
        try:
            num_left = len(requests)
            while num_left:
                event = call.events.get()
                if isinstance(event, RuntimeError):
                    raise event
                num_left -= event[2] is not None
                yield event
        finally:
            self._withdraw(call)

    def load(self) -> tuple[int, int]:
        """Rows running, and requests waiting."""
        with self._lock:
            inside = sum(call.num_inside for call in self._calls)
            return inside, sum(len(call.waiting) for call in self._calls)

    def close(self) -> None:
        """End all calls with an error and wait for the thread; later calls fail at once."""
        with self._lock:
            self._closed = True
            thread = self._thread
            for call in self._calls:
                call.wanted = False
                call.events.put(RuntimeError("the engine was closed"))
            self._calls.clear()
        if thread is not None:
            thread.join()

    def _enter(self, call: _Call[R]) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine was closed")
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="sonoloop-batch", daemon=True)
                thread.start()  # it waits for the lock
                self._thread = thread
            self._calls.append(call)

    def _withdraw(self, call: _Call[R]) -> None:
        with self._lock:
            call.wanted = False
            if call in self._calls:
                self._calls.remove(call)

    def _work(self) -> None:
        try:
            while self._has_work():
                self._take_in()
                if self._inside:
                    self._step()
        except Exception as err:  # the batch's own boundary: nobody may be left waiting
            logger.error("the batch broke down (%s)", type(err).__name__)
            self._start_over(err)

    def _start_over(self, err: Exception) -> None:
        for place in self._inside.values():
            with suppress(Exception):  # what is broken already
                self._stepper.remove(place.row)
        self._inside.clear()
        self._again.clear()
        self._most = None
        with self._lock:
            self._thread = None
            for call in self._calls:
                for index in call.left:
                    call.events.put((index, [], model_failed(err)))
            self._calls.clear()

    def _has_work(self) -> bool:
        """Whether there is anything to do; if not, the thread is no longer the batch's."""
        with self._lock:
            if self._inside or self._again or any(call.waiting for call in self._calls):
                return True
            self._thread = None
            return False

    def _take_in(self) -> None:
        """Let go of rows that nobody wants, and let in whom there is room for."""
        for row in [row for row, place in self._inside.items() if not place.call.wanted]:
            self._stepper.remove(row)
            del self._inside[row]
        while (place := self._next()) is not None:
            try:
                entered = self._stepper.admit(place.row)
            except Exception as err:  # prompts are embedded there: the model's code, as in a step
                self._taken(place)
                self._try_in_halves([*self._inside.values(), place], err)
                continue
            if not entered:
                assert self._inside, "an empty batch refuses nobody"
                break
            self._taken(place)
            self._inside[place.row] = place

    def _next(self) -> _Place[R] | None:
        """Who is to enter next, where there is a place; stays in its queue until `_taken`."""
        while self._again and not self._again[0].call.wanted:
            self._again.popleft()
        if self._most is not None and (self._again or self._inside):
            has_place = bool(self._again) and len(self._inside) < self._most
            return self._again[0] if has_place else None
        self._most = None
        if self._again:
            return self._again[0]
        with self._lock:
            waiting = [call for call in self._calls if call.waiting]
        call = min(waiting, key=lambda call: call.num_inside, default=None)
        if call is None:
            return None
        spare = 0 if call.num_inside else self._spare
        if len(self._inside) >= self._stepper.max_rows + spare:
            return None
        return call.waiting[0]

    def _taken(self, place: _Place[R]) -> None:
        if self._again and self._again[0] is place:
            self._again.popleft()
            return
        place.call.waiting.popleft()
        place.call.num_inside += 1

    def _step(self) -> None:
        try:
            written = self._stepper.step()
        except Exception as err:  # memory, a kernel: whose row it was is found by halves
            self._try_in_halves(list(self._inside.values()), err)
            return
        for row, tokens, outcome in written:
            place = self._inside[row]
            if outcome is not None:
                del self._inside[row]
            self._tell(place, tokens, outcome)

    def _tell(self, place: _Place[R], tokens: list[Token], outcome: Outcome | None) -> None:
        call = place.call
        if outcome is not None:
            call.num_inside -= 1
            call.left.remove(place.index)
        if outcome is not None or call.streamed:
            call.events.put((place.index, tokens, outcome))

    def _try_in_halves(self, places: list[_Place[R]], err: Exception) -> None:
        """Take out the rows of a failed step, to enter again; one that was alone is rejected."""
        for place in places:
            self._stepper.remove(place.row)
        self._inside.clear()
        if len(places) > 1:
            logger.warning(
                "a step of %d rows failed (%s): half of them go on", len(places), type(err).__name__
            )
            self._most = len(places) // 2
            self._again.extendleft(reversed(places))
            return
        (place,) = places
        self._most = None  # it was this one; the others need not stay apart
        self._tell(place, [], model_failed(err))
