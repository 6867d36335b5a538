"""What a verb shows: progress on stderr, one short table or one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="TOML file: a path or an s3:// URI.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

FILE_WIDTH = 165
"""Columns of a table that goes into a file or a pipe."""
progress = Console(stderr=True, highlight=False, soft_wrap=True)


class Tabular(BaseModel, ABC):
    """A summary that is shown as tables of its own."""

    @abstractmethod
    def tables(self, width: int) -> list[Table]:
        """What is printed, from top to bottom, into so many columns."""


def show(summary: BaseModel, *, title: str, as_json: bool) -> None:
    """Print a summary as a two-column table or its own ones, or as JSON for machines."""
    values = summary.model_dump(mode="json")
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
        return
    if isinstance(summary, Tabular):
        _print_tables(summary)
        return
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name.replace("_", " "), escape(_cell(value)))
    Console(highlight=False).print(table)


def _print_tables(summary: Tabular) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, FILE_WIDTH)
    console.print(*summary.tables(console.width), sep="\n")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
