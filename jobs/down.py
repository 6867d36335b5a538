"""``sonoloop down``: end the local stack; keys, ports and data stay for the next ``up``."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sonoloop.platform.stack import Component, stop


def down(
    folder: Annotated[Path, typer.Option(help="The folder that sonoloop up used.")] = Path(".sonoloop"),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Stop the processes of the local stack, by process id."""
    stopped = stop(folder, Console(stderr=True, highlight=False).print)
    if json:
        typer.echo(json_module.dumps({"folder": str(folder.absolute()), "stopped": list(stopped)}))
        return
    table = Table("service", "state", title="the local stack")
    for component in Component:
        table.add_row(component, "stopped" if component in stopped else "did not run")
    Console(highlight=False).print(table)
