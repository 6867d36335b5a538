"""Two models side by side, as tables for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sonoloop.jobs.evaluating.figures import Breakdown, ConfidenceBin, Figures
from sonoloop.model.intervals import Estimate

_COLUMNS = 120
_NAMES = {
    "usable": "share of cases with a valid and complete draft",
    "entity_macro_f1": "entity macro-F1",
    "edits_per_case": "edits per case",
    "edited": "share of fields to be touched",
    "edit_distance": "edit distance of the report",
    "bleu_1": "BLEU-1",
    "rouge_l": "ROUGE-L",
    "box_iou": "box IoU",
    "calibration_error": "calibration error",
    "kept": "share of judged values kept",
    "tokens_per_case": "tokens per case",
    "seconds_per_case": "seconds of a model actor per case",
}
"""Fields of `Figures`, and what a person reads."""


@dataclass(frozen=True)
class PlainTable:
    """A title, headings and rows of text."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(champion: Breakdown, challenger: Breakdown) -> Iterator[PlainTable]:
    """Overall, by organ, by scanner and by confidence; without those that would hold one row only.

    Args:
        champion: Figures of the model that drafts now.
        challenger: Those of the other one, over the same cases.
    """
    old, new = champion.overall, challenger.overall
    yield PlainTable(
        f"{new.num_cases} held-out cases of {new.num_patients} patients, intervals of 95 %",
        ("figure", "champion", "challenger", "n"),
        tuple(_figure(old, new, name) for name in _NAMES),
    )
    kinds = (
        ("organ", champion.organs, challenger.organs),
        ("scanner", champion.scanners, challenger.scanners),
    )
    for what, before, after in kinds:
        if len(after) > 1:
            yield PlainTable(
                f"By {what}",
                (what, "cases", "macro-F1, champion", "challenger", "edits per case, champion", "challenger"),
                tuple(_part(name, before[name], after[name]) for name in after if name in before),
            )
    for who, bins in (("champion", champion.confidence), ("challenger", challenger.confidence)):
        if bins:
            yield PlainTable(
                f"How right the {who} is by how sure it is",
                ("confidence", "cases", "on average", "values kept", "edits per case"),
                tuple(map(_bin, bins)),
            )


def print_tables(title: str, tables: Iterator[PlainTable]) -> None:
    """Print the tables on stdout, one below the other."""
    console = Console(highlight=False, width=_COLUMNS)
    console.print(title)
    for plain in tables:
        table = Table(title=escape(plain.title), title_justify="left")
        for heading in plain.headings:
            table.add_column(heading)
        for row in plain.rows:
            table.add_row(*map(escape, row))
        console.print(table)


def _figure(old: Figures, new: Figures, name: str) -> tuple[str, ...]:
    before, after = getattr(old, name), getattr(new, name)
    return _NAMES[name], _text(before), _text(after), str(after.n if after else "-")


def _part(name: str, old: Figures, new: Figures) -> tuple[str, ...]:
    f1 = (_text(side.entity_macro_f1) for side in (old, new))
    return name, str(new.num_cases), *f1, *(_text(side.edits_per_case) for side in (old, new))


def _bin(found: ConfidenceBin) -> tuple[str, ...]:
    place = f"{found.low:.1f} to {found.high:.1f}"
    cells = (_text(found.kept), _text(found.edits_per_case))
    return place, str(found.num_cases), f"{found.confidence:.2f}", *cells


def _text(value: Estimate | None) -> str:
    return "-" if value is None else str(value)
