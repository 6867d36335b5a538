"""``sonoloop lineage``: where a model, a case or a task came from, and what came of it.

Ids, pseudonyms, times and counts only: nothing that a model or a person wrote of a patient.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.tracing.cases import CaseLineage, trace_case
from sonoloop.jobs.tracing.models import ModelLineage, trace_model
from sonoloop.jobs.tracing.naming import NamedModel, what_is
from sonoloop.jobs.tracing.tree import as_tree

_WIDE = 1000
"""Columns where nobody looks: a line for each thing, as `grep` wants it."""


def lineage(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|CASE|TASK",
            help="A model (champion, challenger, previous, name/version), a case id, or a task "
            "(its number, or project:number).",
        ),
    ],
    config: ConfigOption = "sonoloop.toml",
    json: JsonOption = False,
) -> None:
    """Tell where something came from, back to every review, and what came of it, forward to every draft."""
    found = run_lineage(load_config(config), what)
    if json:
        show(found, title="lineage", as_json=True)
    else:
        width = None if sys.stdout.isatty() else _WIDE
        Console(highlight=False, width=width).print(as_tree(found, f"lineage of {what}"))


def run_lineage(config: Config, what: str) -> ModelLineage | CaseLineage:
    """The lineage of whatever a word names.

    Raises:
        ConfigError: nothing is known by it, or several tasks are.
        StorageError: the workspace cannot be read.
    """
    workspace = config.open_workspace()
    named = what_is(config, workspace, what)
    if isinstance(named, NamedModel):
        return trace_model(workspace, named.model_version)
    return trace_case(workspace, named.case, asked_by_task=named.task)
