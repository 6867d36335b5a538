"""``sonoloop doctor``: what is missing or broken on this machine and around it, with a remedy for each."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.doctoring import machine, services, storage
from sonoloop.jobs.doctoring.finding import Finding, Look, findings_of, ok, problem
from sonoloop.jobs.output import ConfigOption, JsonOption
from sonoloop.platform.errors import ConfigError, StorageError

LIMIT_S = 60.0
_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[red]problem[/]"}


class Diagnosis(BaseModel):
    """All that was found."""

    healthy: bool
    findings: list[Finding]


def doctor(
    config: ConfigOption = "sonoloop.toml",
    limit_s: Annotated[
        float, typer.Option(min=1, help="How long all looks together may take, seconds.")
    ] = LIMIT_S,
    json: JsonOption = False,
) -> None:
    """Look at everything that the loop needs; exit code 1 where something does not work."""
    found = diagnose(config, limit_s=limit_s)
    if json:
        sys.stdout.write(found.model_dump_json() + "\n")
    else:
        _print(found)
    raise typer.Exit(0 if found.healthy else 1)


def diagnose(source: str, *, limit_s: float = LIMIT_S) -> Diagnosis:
    """Every finding, whatever is configured so far.

    Args:
        source: The configuration, as `load_config` takes it.
        limit_s: How long all looks together may take.
    """
    try:
        config: Config | None = load_config(source)
        first = ok("configuration", "file", f"{source} can be used")
    except (ConfigError, StorageError) as err:
        text, _, remedy = str(err).partition("; ")
        config, first = None, problem("configuration", "file", text, remedy or "see examples/sonoloop.toml")
    findings = [first, *findings_of(_looks(config), limit_s=limit_s)]
    return Diagnosis(healthy=all(one.state != "problem" for one in findings), findings=findings)


def _looks(config: Config | None) -> list[tuple[str, Look]]:
    looks: list[tuple[str, Look]] = [
        ("python", machine.python),
        ("machine", partial(machine.machine, config)),
        ("environment", machine.environment),
        ("ports", partial(machine.ports, config)),
        ("gpu", partial(machine.gpu, config)),
        (services.RAY, partial(services.ray_answers, config)),
    ]
    if config is not None:
        looks += [
            (storage.AREA, partial(storage.workspace, config)),
            (storage.AREA, partial(storage.archive, config)),
            (services.STUDIO, partial(services.label_studio, config)),
            (services.MODEL, partial(services.model, config)),
        ]
    return looks


def _print(found: Diagnosis) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "area", "what", "found, and what to do"):
        table.add_column(heading)
    for one in found.findings:
        told = escape(one.found) + (f"\n[bold]-> {escape(one.remedy)}[/]" if one.remedy else "")
        table.add_row(_MARKS[one.state], one.area, escape(one.what), told)
    console.print(table)
    num = {state: sum(one.state == state for one in found.findings) for state in _MARKS}
    console.print(f"\n{num['problem']} problems, {num['warning']} warnings, {num['ok']} fine")
