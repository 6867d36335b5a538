"""A model version without replicas, for the door's tests: it answers as it is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeAlias

from sonoloop.serve.champion import Event, Question

Ask: TypeAlias = Callable[[Question], AsyncGenerator[Event, None]]


@dataclass(frozen=True)
class Fixed:
    """One version."""

    version: str
    ask: Ask


def fixed(version: str, ask: Ask) -> Callable[[], Fixed]:
    """What the door asks for the version that serves, where it never changes."""
    return lambda: Fixed(version, ask)
