"""What a verb shows: progress on stderr, one short table or one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="TOML file: a path or an s3:// URI.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

progress = Console(stderr=True, highlight=False, soft_wrap=True)


def show(summary: BaseModel, *, title: str, as_json: bool) -> None:
    """Print a summary as a two-column table, or as JSON for machines."""
    values = summary.model_dump(mode="json")
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
        return
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name.replace("_", " "), escape(_cell(value)))
    Console(highlight=False).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
