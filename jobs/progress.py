"""Live progress of a distributed stage: workers count, the driver shows.

On a terminal a bar with a line of notes; elsewhere a plain line every few seconds: no log sits silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from sonoloop.jobs.output import progress as console
from sonoloop.platform import metrics

POLL_S = 0.5
LINE_EVERY_S = 5.0


@dataclass(frozen=True)
class Standing:
    """How far a stage is.

    Attributes:
        done: Rows done.
        total: Rows known of; 0 where none is yet.
        per_s: Rows per second; None where nobody can tell yet.
        left_s: Seconds until the last row; None where nobody can tell yet.
        notes: What else there is to say, most important first.
    """

    done: int
    total: int
    per_s: float | None = None
    left_s: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> str:
        """Rows done of rows known of."""
        return f"{self.done}/{self.total}"

    @property
    def pace(self) -> tuple[str, ...]:
        """Rate and time left, as far as they are known."""
        per_s = f"{self.per_s:.3g}/s" if self.per_s is not None else ""
        left = f"{in_words(self.left_s)} left" if self.left_s is not None and self.done < self.total else ""
        return tuple(filter(None, (per_s, left)))

    def __str__(self) -> str:
        """One plain line."""
        return ", ".join((self.counts, *self.pace, *self.notes))


Look = Callable[[], Standing | None]
"""Asks how far a stage is; None where nobody answers."""


@contextmanager
def shown(title: str, look: Look) -> Iterator[None]:
    """Show how far a stage is until the block ends."""
    stop = threading.Event()
    show = _show_bar if console.is_terminal else _show_lines
    shower = threading.Thread(target=show, args=(title, look, stop), daemon=True)
    shower.start()
    try:
        yield
    finally:
        stop.set()
        shower.join()


def in_words(seconds: float) -> str:
    """A duration as people say it, in its two largest units: ``35 s``, ``12 min``, ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """For an actor that shares the driver's fate."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@ray.remote(num_cpus=0)
class Counter:
    """Counts what the workers report; lives as long as its handle."""

    def __init__(self, stage: str, total: int) -> None:
        self._done = 0
        self._rejected = 0
        self._total = total
        self._stage = {"stage": stage}
        self._rows, self._known = metrics.counter(metrics.STAGE_ROWS), metrics.gauge(metrics.STAGE_KNOWN)
        self._known.set(total, self._stage)

    def expect(self, more: int) -> None:
        """Rows that were found after the stage began."""
        self._total += more
        self._known.set(self._total, self._stage)

    def add(self, done: int, rejected: int) -> None:
        """Count rows that left a stage, and how many of them were rejections."""
        self._done += done
        self._rejected += rejected
        for status, number in (("done", done - rejected), ("rejected", rejected)):
            if number > 0:  # Ray refuses to count nothing
                self._rows.inc(number, {**self._stage, "status": status})

    def read(self) -> tuple[int, int, int]:
        """Rows done so far, rejections among them, and rows known of."""
        return self._done, self._rejected, self._total


@contextmanager
def counted(title: str, total: int = 0) -> Iterator[Any]:
    """A `Counter` handle for the workers, shown until the block ends; they may come to `expect` more."""
    on_this = Counter.options(scheduling_strategy=on_this_node())  # type: ignore[attr-defined]
    counter = on_this.remote(title, total)
    try:
        with shown(title, _Pace(counter)):
            yield counter
    finally:
        ray.kill(counter)  # tasks that know it are functions that Ray keeps, and its process with them


class _Pace:
    """Looks at a counter; rates count from the first rows on, since workers take time to start."""

    def __init__(self, counter: Any) -> None:
        self._counter = counter
        self._first: tuple[float, int] | None = None

    def __call__(self) -> Standing | None:
        found: tuple[int, int, int] | None = asked(self._counter.read)
        if found is None:
            return None
        done, rejected, total = found
        notes = (f"{rejected} rejected",) if rejected else ()
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done) if done else None
            return Standing(done, total, notes=notes)
        since, before = self._first
        per_s = (done - before) / (now - since) if now > since else 0.0
        return Standing(done, total, per_s or None, (total - done) / per_s if per_s else None, notes)


def asked(method: Any, *, timeout_s: float = LINE_EVERY_S) -> Any:
    """What an actor's method returns; None where the actor is gone or too busy to answer."""
    try:
        return ray.get(method.remote(), timeout=timeout_s)
    except RayError:
        return None


class _Bar(Progress):
    """A bar, and the notes below it."""

    notes = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Both."""
        yield self.make_tasks_table(self.tasks)
        if self.notes:
            yield Text(self.notes, style="dim")


def _show_bar(title: str, look: Look, stop: threading.Event) -> None:
    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.fields[rows]}"),
        TextColumn("{task.fields[pace]}"),
    )
    with _Bar(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, rows="starting", pace="")
        running = True
        while running:
            running = not stop.wait(POLL_S)
            standing = look()
            if standing is None or not standing.total:
                continue
            bar.notes = ", ".join(standing.notes)
            bar.update(
                task,
                completed=standing.done,
                total=standing.total,
                rows=standing.counts if standing.done else f"{standing.counts}, starting",
                pace=", ".join(standing.pace),
            )


def _show_lines(title: str, look: Look, stop: threading.Event) -> None:
    while not stop.wait(LINE_EVERY_S):
        standing = look()
        if standing is not None and standing.total:
            console.print(f"{title}: {standing}" if standing.done else f"{title}: {standing}, starting")
