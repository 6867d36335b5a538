"""One table of the report in words, and how figures stand in it."""

from __future__ import annotations

from dataclasses import dataclass

from sonoloop.model.intervals import Estimate

READER_DIGITS = 8
"""Of a pseudonym, in tables; enough to tell some thousands of readers apart."""


@dataclass(frozen=True)
class Section:
    """One table: what it shows, how to read it, and its cells; a long one is for the page only, folded."""

    key: str
    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_long: bool = False


def cell(value: Estimate | None) -> str:
    """An estimate as it stands in a table."""
    return "-" if value is None else str(value)


def size(value: Estimate | None) -> str:
    """How many values an estimate is made of."""
    return "0" if value is None else str(value.n)


def number(value: float | None) -> str:
    """A figure without an interval as it stands in a table."""
    return "-" if value is None else f"{value:.2f}"
