"""``sonoloop report``: the loop's whole story, from what came through to what drafts are worth to readers."""

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
from sonoloop.jobs.reporting.evidence import read_evidence
from sonoloop.jobs.reporting.figures import Report, make_report
from sonoloop.jobs.reporting.gallery import make_gallery
from sonoloop.jobs.reporting.page import page_of
from sonoloop.jobs.reporting.sections import sections_of
from sonoloop.jobs.reporting.story import make_story
from sonoloop.platform.errors import ConfigError, NothingToDoError

_COLUMNS = 120


def report(
    config: ConfigOption = "sonoloop.toml",
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; into the workspace's reports/ when absent.")
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Leave key frames out of the gallery of drafts.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Tell the loop's story: print tables and write one HTML page with plots and a gallery."""
    found, place = run_report(load_config(config), out=out, with_pictures=not no_pictures)
    if json:
        sys.stdout.write(found.model_dump_json() + "\n")
    else:
        _print(found)
    progress.print(f"written: {place}")


def run_report(config: Config, *, out: Path | None = None, with_pictures: bool = True) -> tuple[Report, str]:
    """All figures, and where the page was written.

    Args:
        config: The configuration.
        out: The page's file; ``reports/<time>.html`` in the workspace when absent.
        with_pictures: Whether the gallery of drafts shows key frames.

    Raises:
        NothingToDoError: there is not a single object, and nobody has read a case.
        ConfigError: the page's folder does not exist.
        StorageError: the workspace cannot be read or written.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: its folder does not exist")
    workspace = config.open_workspace()
    evidence = read_evidence(workspace)
    story = make_story(config, workspace)
    if not evidence.cases and not story.funnel.objects:
        raise NothingToDoError(
            "nothing is indexed and nobody has read a case; run `sonoloop index`, and `sonoloop pull` after "
            "people have corrected drafts"
        )
    found = make_report(workspace, prompt_version=config.annotate.prompt_version, evidence=evidence)
    found = found.model_copy(update={"story": story})
    page = page_of(found, make_gallery(workspace, evidence, with_pictures=with_pictures)).encode()
    if out is None:
        parts = ("reports", f"{found.made_at:%Y%m%dT%H%M%S}.html")
        workspace.write_bytes(page, *parts)
        return found, workspace.uri_of(*parts)
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
