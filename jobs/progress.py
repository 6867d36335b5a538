"""Live progress of a distributed stage: workers count, the driver shows.

On a terminal a bar; elsewhere a plain line every few seconds, so that no log sits silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sonoloop.jobs.output import progress as console

POLL_S = 0.5
LINE_EVERY_S = 5.0


@ray.remote(num_cpus=0)
class Counter:
    """Counts what the workers report; lives as long as its handle."""

    def __init__(self, total: int) -> None:
        self._done = 0
        self._rejected = 0
        self._total = total

    def expect(self, more: int) -> None:
        """Rows that were found after the stage began."""
        self._total += more

    def add(self, done: int, rejected: int) -> None:
        """Count rows that left a stage, and how many of them were rejections."""
        self._done += done
        self._rejected += rejected

    def read(self) -> tuple[int, int, int]:
        """Rows done so far, rejections among them, and rows known of."""
        return self._done, self._rejected, self._total


@contextmanager
def counted(title: str, total: int = 0) -> Iterator[Any]:
    """A `Counter` handle for the workers, shown until the block ends; they may come to `expect` more."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    counter = Counter.options(scheduling_strategy=here).remote(total)  # type: ignore[attr-defined]
    stop = threading.Event()
    shower = threading.Thread(target=_show, args=(title, counter, stop), daemon=True)
    shower.start()
    try:
        yield counter
    finally:
        stop.set()
        shower.join()
        ray.kill(counter)  # tasks that know it are functions that Ray keeps, and its process with them


def _show(title: str, counter: Any, stop: threading.Event) -> None:
    show = _show_bar if console.is_terminal else _show_lines
    show(title, counter, stop)


def _show_bar(title: str, counter: Any, stop: threading.Event) -> None:
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rejected]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, rejected="")
        running = True
        while running:
            running = not stop.wait(POLL_S)
            done, rejected, total = ray.get(counter.read.remote())
            bar.update(task, completed=done, total=total, rejected=f"{rejected} rejected" if rejected else "")


def _show_lines(title: str, counter: Any, stop: threading.Event) -> None:
    first: tuple[float, int] | None = None  # rates count from the first rows on: actors take time to start
    while not stop.wait(LINE_EVERY_S):
        done, rejected, total = ray.get(counter.read.remote())
        if not total:
            continue
        if first is None:
            first = (time.monotonic(), done) if done else None
            console.print(f"{title}: {done}/{total}, {'under way' if done else 'starting'}")
            continue
        rate = (done - first[1]) / (time.monotonic() - first[0])
        left = f", about {(total - done) / rate:.0f} s left" if rate else ""
        bad = f", {rejected} rejected" if rejected else ""
        console.print(f"{title}: {done}/{total}{bad}, {rate:.1f}/s{left}")
