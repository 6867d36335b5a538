"""What a person sees while the demo runs: numbered steps, their times, a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sonoloop.jobs.output import progress as console

TICK_EVERY_S = 5.0


class Steps:
    """Prints numbered steps and remembers how long each took."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._last_line = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One numbered step; prints its title before and its seconds after."""
        begin = self._last_line = time.monotonic()
        console.print(f"[bold]\\[{len(self.seconds) + 1}/{self._total}] {title}[/bold]")
        yield
        self.seconds[title] = time.monotonic() - begin
        console.print(f"      done in {self.seconds[title]:.1f} s")

    def say(self, line: str) -> None:
        """One indented line."""
        self._last_line = time.monotonic()
        console.print(f"      {line}")

    def tick(self, line: str) -> None:
        """A line, if the last one is some seconds old."""
        if time.monotonic() - self._last_line > TICK_EVERY_S:
            self.say(line)
