"""``sonoloop keys``: who may ask this workspace's servers; add a key, list them, close one."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.settings import read_settings
from sonoloop.platform.workspace import store_of
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.keys import KeyRecord, Scope, add_key, read_keys, revoke_key

console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class Action(StrEnum):
    """What to do with the keys."""

    ADD = "add"
    LIST = "list"
    REVOKE = "revoke"


def keys(
    action: Annotated[Action, typer.Argument(help="add, list or revoke.")],
    name: Annotated[
        str | None, typer.Argument(help="add, revoke: who the key is for; logs go by it.")
    ] = None,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="add: what it opens; repeatable; chat if not given.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="add: no limit if not given.")
    ] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="add: no limit if not given.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="add: valid for so long; for ever if not given.")
    ] = None,
    config: Annotated[
        str, typer.Option("--config", "-c", help="TOML file: a path or an s3:// URI.")
    ] = "sonoloop.toml",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Make a key, which is shown once; list all; or close one for ever."""
    settings, action = read_settings(ServeSettings, config), Action(action)
    workspace = store_of(settings.workspace, settings.s3)
    workspace.check()
    if action is Action.LIST:
        _list(read_keys(workspace), as_json=json)
        return
    if name is None:
        raise ConfigError(f"`sonoloop keys {action}` needs a name")
    if action is Action.REVOKE:
        _list([revoke_key(workspace, name)], as_json=json)
        return
    record, key = add_key(
        workspace,
        name,
        map(Scope, scope or (Scope.CHAT,)),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        valid_for=None if days is None else timedelta(days=days),
    )
    _show_once(record, key, as_json=json)


def _show_once(record: KeyRecord, key: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(jsonlib.dumps({**_told(record), "key": key}) + "\n")
        return
    console.print(
        f"keys: {record.name} opens {', '.join(sorted(record.scopes))}; its key is shown this once:"
    )
    sys.stdout.write(key + "\n")


def _list(records: Iterable[KeyRecord], *, as_json: bool) -> None:
    told = [_told(record) for record in records]
    if as_json:
        sys.stdout.write(jsonlib.dumps(told) + "\n")
        return
    table = Table(title="keys", title_justify="left")
    for column in ("name", "scopes", "requests/min", "tokens/min", "state", "expires"):
        table.add_column(column)
    for row in told:
        limits = (str(row[f"{kind}_per_minute"] or "-") for kind in ("requests", "tokens"))
        table.add_row(row["name"], " ".join(row["scopes"]), *limits, row["state"], row["expires_at"] or "-")
    Console(highlight=False, markup=False).print(table)


def _told(record: KeyRecord) -> dict[str, Any]:
    """All but the digest."""
    told = record.model_dump(mode="json", exclude={"digest"})
    if record.revoked_at is not None:
        state = "revoked"
    else:
        state = "valid" if record.is_valid(datetime.now(UTC)) else "expired"
    return {**told, "scopes": sorted(record.scopes), "state": state}
