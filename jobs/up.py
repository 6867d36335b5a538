"""``sonoloop up``: bring up the local stack and say where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.stack import (
    Component,
    LabelStudioConfig,
    RayConfig,
    S3Config,
    StackConfig,
    StackInfo,
    start,
)
from sonoloop.platform.stack.labelstudio import load_or_create_account


def _config(
    folder: Path,
    components: list[Component],
    ports: tuple[int | None, int | None, int | None],
    num_cpus: int,
    database: str | None,
) -> StackConfig:
    s3_port, labelstudio_port, dashboard_port = ports
    try:
        return StackConfig(
            folder=folder,
            components=tuple(components),
            s3=S3Config(port=s3_port),
            labelstudio=LabelStudioConfig(port=labelstudio_port, database=database),
            ray=RayConfig(dashboard_port=dashboard_port, num_cpus=num_cpus),
        )
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors())
        raise ConfigError(f"sonoloop up cannot use these options: {problems}") from err


def _table(info: StackInfo) -> Table:
    table = Table("service", "address", "how to get in", title="the local stack")
    if info.s3_endpoint:
        table.add_row("S3", info.s3_endpoint, f"buckets {', '.join(info.buckets)}; keys in {info.env_file}")
    if info.labelstudio_url and info.labelstudio_username:
        account = load_or_create_account(info.folder, info.labelstudio_username)
        table.add_row(
            "Label Studio", info.labelstudio_url, f"user {account.username}, password {account.password}"
        )
    if info.ray_address:
        table.add_row("Ray", info.ray_address, f"RAY_AUTH_MODE and token path in {info.env_file}")
        table.add_row(
            "Ray dashboard", str(info.dashboard_url), f"asks for the token in {info.folder / 'ray-token'}"
        )
    return table


def up(
    folder: Annotated[Path, typer.Option(help="Where keys, data, logs and pid files lie.")] = Path(
        ".sonoloop"
    ),
    component: Annotated[
        list[Component] | None, typer.Option(help="Start only this one; repeat for more. Default: all.")
    ] = None,
    s3_port: Annotated[
        int | None, typer.Option(help="Port of S3. Default: kept, at first a free one.")
    ] = None,
    labelstudio_port: Annotated[int | None, typer.Option(help="Port of Label Studio, likewise.")] = None,
    dashboard_port: Annotated[int | None, typer.Option(help="Port of the Ray dashboard, likewise.")] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="Of Label Studio: sqlite; postgresql, Debian's, started here; or the address "
            "postgresql://user@host:port/name, its password in PGPASSWORD. Default: kept, at first sqlite."
        ),
    ] = None,
    num_cpus: Annotated[int, typer.Option(help="Logical CPUs that Ray schedules on.")] = 4,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; names secret files only.")
    ] = False,
) -> None:
    """Start S3, Label Studio and Ray on this machine, or what of them does not run."""
    progress = Console(stderr=True, highlight=False)
    ports = (s3_port, labelstudio_port, dashboard_port)
    config = _config(folder, component or list(Component), ports, num_cpus, database)
    info = start(config, progress.print)
    if json:
        typer.echo(info.model_dump_json())
        return
    console = Console(highlight=False)
    console.print(_table(info))
    console.print(
        f"In a shell: . {info.env_file}    To end it: sonoloop down --folder {folder}", soft_wrap=True
    )
