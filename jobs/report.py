"""``sonoloop report``: how readers agree, how good they are, and what drafts are worth to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, progress
from sonoloop.jobs.reporting.figures import Report, make_report
from sonoloop.jobs.reporting.page import page_of
from sonoloop.jobs.reporting.sections import sections_of
from sonoloop.platform.errors import ConfigError, NothingToDoError

_COLUMNS = 120


def report(
    config: ConfigOption = "sonoloop.toml",
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; into the workspace's reports/ when absent.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure readers and drafts; print tables and write one HTML page with plots."""
    found, place = run_report(load_config(config), out=out)
    if json:
        sys.stdout.write(found.model_dump_json() + "\n")
    else:
        _print(found)
    progress.print(f"written: {place}")


def run_report(config: Config, *, out: Path | None = None) -> tuple[Report, str]:
    """All figures, and where the page was written.

    Args:
        config: The configuration.
        out: The page's file; ``reports/<time>.html`` in the workspace when absent.

    Raises:
        NothingToDoError: nobody has read a case.
        ConfigError: the page's folder does not exist.
        StorageError: the workspace cannot be read or written.
    """
    workspace = config.open_workspace()
    found = make_report(workspace, prompt_version=config.annotate.prompt_version)
    if not found.num_readings:
        raise NothingToDoError(
            "nobody has read a case; run `sonoloop pull` after people have corrected drafts"
        )
    page = page_of(found).encode()
    if out is None:
        parts = ("reports", f"{found.made_at:%Y%m%dT%H%M%S}.html")
        workspace.write_bytes(page, *parts)
        return found, workspace.uri_of(*parts)
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: its folder does not exist")
    out.write_bytes(page)
    return found, str(out)


def _print(found: Report) -> None:
    console = Console(highlight=False, width=_COLUMNS)
    for section in sections_of(found):
        if section.is_long or not section.rows:
            continue
        table = Table(title=escape(section.title), title_justify="left")
        for heading in section.headings:
            table.add_column(heading)
        for row in section.rows:
            table.add_row(*map(escape, row))
        console.print(table)
