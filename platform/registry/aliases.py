"""Aliases of a model line: which version drafts, which wants to, which did before; and how that changed.

``models/<name>/aliases.json`` holds the aliases together with the last change, so that neither is ever there
without the other. Before the next change overwrites it, the last one goes to ``models/<name>/history/``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import ConfigError, ConflictError, StorageError
from sonoloop.platform.records import content_id
from sonoloop.platform.registry.card import write_card
from sonoloop.platform.registry.names import ROOM
from sonoloop.platform.registry.reading import parsed
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

Alias = Literal["champion", "challenger", "previous"]
_ALIASES, _HISTORY = "aliases.json", "history"


class Aliases(BaseModel):
    """Which version drafts, which wants to, which did before."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None


class AliasChange(BaseModel):
    """One change of a line's aliases."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: datetime
    by: str = Field(description="command or run that made it; never a person")
    reason: str
    before: Aliases
    after: Aliases

    @property
    def file_name(self) -> str:
        """Where it is kept: named by time and content, so that keeping it twice is keeping it once."""
        return f"{self.at:%Y%m%dT%H%M%S%f}-{content_id(self.model_dump_json(), length=8)}.json"


class Span(BaseModel):
    """A time in which a version had an alias; until now, where it has no end."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    alias: Alias
    since: datetime
    until: datetime | None
    by: str = Field(description="command or run that gave it the alias")


class _Stored(Aliases):
    change: AliasChange | None = None

    def aliases(self) -> Aliases:
        return Aliases(champion=self.champion, challenger=self.challenger, previous=self.previous)


def read_aliases(workspace: Store, name: str) -> Aliases:
    """The aliases of one model; all ``None`` where there are none yet.

    Raises:
        StorageError: the store refuses, or the file is not one of this version of sonoloop.
    """
    return _read(workspace, name)[0].aliases()


_MADE_BY = {"champion": "init", "challenger": "finetune", "previous": "promote"}


def resolve(workspace: Store, name: str, alias_or_version: str = "champion") -> str:
    """The model version behind an alias; a version string is returned as it is.

    Raises:
        ConfigError: the alias is not set.
        StorageError: as of `read_aliases`.
    """
    if alias_or_version not in Aliases.model_fields:
        return alias_or_version if "/" in alias_or_version else f"{name}/{alias_or_version}"
    version: str | None = getattr(read_aliases(workspace, name), alias_or_version)
    if version is None:
        raise ConfigError(
            f"model {name} has no {alias_or_version}; run `sonoloop {_MADE_BY[alias_or_version]}` first"
        )
    return version


def set_aliases(
    workspace: Store,
    name: str,
    changes: Mapping[Alias, str | None],
    *,
    expected: Aliases,
    by: str = "sonoloop",
    reason: str = "",
) -> Aliases:
    """Change aliases if they still are what the caller decided upon, and write these models' cards anew.

    Args:
        workspace: Where the registry lies.
        name: The model line.
        changes: Alias to version.
        expected: What the caller saw.
        by: Command or run that does it, for the history.
        reason: Why, for the history.

    Raises:
        ConflictError: somebody changed them in between; nothing was written.
        StorageError: as of `read_aliases`.
    """
    stored, version = _read(workspace, name)
    current = stored.aliases()
    if current != expected:
        raise ConflictError(f"the aliases of {name} were changed by another writer; evaluate again")
    changed = current.model_copy(update={str(alias): named for alias, named in changes.items()})
    change = AliasChange(at=datetime.now(UTC), by=by, reason=reason, before=current, after=changed)
    if stored.change is not None:
        kept = stored.change.model_dump_json(indent=2).encode()
        workspace.write_bytes(kept, ROOM, name, _HISTORY, stored.change.file_name)
    new = _Stored(**changed.model_dump(), change=change).model_dump_json(indent=2).encode()
    workspace.put_control(new, ROOM, name, _ALIASES, version=version)
    for model_version in sorted(filter(None, set(changes.values()))):
        try:
            write_card(workspace, model_version)
        except StorageError:  # the aliases have changed, and that is what counts
            logger.warning("the card of %s could not be written anew", model_version)
    return changed


def alias_changes(workspace: Store, name: str) -> list[AliasChange]:
    """Every change of a line's aliases, oldest first; none from before they were kept.

    Raises:
        StorageError: the store refuses, or a file is not one of this version of sonoloop.
    """
    selector = pafs.FileSelector(workspace.path(ROOM, name, _HISTORY), allow_not_found=True)
    with storage_errors(workspace.uri):
        paths = [info.path for info in workspace.fs.get_file_info(selector) if info.extension == "json"]
    last = _read(workspace, name)[0].change  # read after the listing: by then it is in one of the two
    kept = [parsed(AliasChange, workspace.read_path(path), path) for path in paths]
    found = {change.file_name: change for change in (*kept, *filter(None, [last]))}
    return sorted(found.values(), key=lambda change: change.at)


def spans_of(changes: Iterable[AliasChange], model_version: str) -> list[Span]:
    """When a version had which alias, by a line's changes, oldest first."""
    spans: list[Span] = []
    for change in changes:
        for alias in ("champion", "challenger", "previous"):
            had = getattr(change.before, alias) == model_version
            has = getattr(change.after, alias) == model_version
            if has and not had:
                spans.append(Span(alias=alias, since=change.at, until=None, by=change.by))
            elif had and not has:
                spans = [_ended(span, alias, change.at) for span in spans]
    return spans


def champion_at(changes: Iterable[AliasChange], moment: datetime) -> str | None:
    """The champion at a moment, by a line's changes, oldest first; ``None`` where none is known."""
    champion: str | None = None
    for number, change in enumerate(changes):
        if change.at > moment:
            return champion if number else change.before.champion
        champion = change.after.champion
    return champion


def _ended(span: Span, alias: str, at: datetime) -> Span:
    return span.model_copy(update={"until": at}) if (span.alias, span.until) == (alias, None) else span


def _read(workspace: Store, name: str) -> tuple[_Stored, str | None]:
    place = (ROOM, name, _ALIASES)
    found = workspace.get_control(*place)
    return (parsed(_Stored, found[0], workspace.uri_of(*place)), found[1]) if found else (_Stored(), None)
