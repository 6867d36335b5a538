"""Objects whose pixels could not be shown clean wait until a person has looked at them; what people decided.

Each decision is a control object of its own, ``quarantine/<instance_id>/<number>.json``, numbered from 0 and
put only where none lies: decisions are never overwritten, and of two people who decide at once one is told
that the other was first. The newest one counts. Who decided is written as a keyed hash of the name given, the
same for the same name, so that whoever holds the key can say who it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr

from sonoloop.platform.archive.deidentify.masks import Box
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.workspace import Store

ROOM = "quarantine"
MAX_NOTE = 200
"""Characters."""


class _Decision(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    instance_id: str
    etag: str = Field(description="the object's version that was looked at; the decision is about no other")
    by: str = Field(description="pseudonym of the person")
    note: str = Field(default="", max_length=MAX_NOTE, description="free of patient data")
    rules_version: str = Field(description="rules that had sent the object here")
    at: datetime


class Release(_Decision):
    """A person saw the whole picture and lets it out, with more masks where they were wanted."""

    verdict: Literal["release"] = "release"
    masks: tuple[Box, ...] = Field(default=(), description="pixels of the whole picture, both ends inside")


class Keep(_Decision):
    """A person saw the picture and it stays."""

    verdict: Literal["keep"] = "keep"


class _Either(RootModel[Annotated[Release | Keep, Field(discriminator="verdict")]]):
    """A decision as it is stored."""


def person(key: SecretStr, name: str) -> str:
    """The pseudonym of a person who decides."""
    return pseudonym(key, "data-officer", name.strip().casefold())


def decide(workspace: Store, decision: Release | Keep) -> None:
    """Write a decision behind the earlier ones of its instance.

    Raises:
        ConflictError: somebody else decided on the same instance in between.
        StorageError: the workspace cannot be reached.
    """
    number = sum(1 for _ in workspace.list_objects(f"{ROOM}/{decision.instance_id}"))
    data = decision.model_dump_json(indent=2).encode()
    workspace.put_control(data, ROOM, decision.instance_id, f"{number:04d}.json", version=None)


def read_decisions(workspace: Store) -> dict[str, Release | Keep]:
    """The decision that counts for each instance."""
    paths = sorted(info.uri.removeprefix("s3://") for info in workspace.list_objects(ROOM))
    found = (_Either.model_validate_json(workspace.read_path(path)).root for path in paths)
    return {decision.instance_id: decision for decision in found}


def read_releases(workspace: Store) -> dict[str, Release]:
    """Instances that a person let out; each only in the version that its release is of."""
    decisions = read_decisions(workspace)
    return {key: decision for key, decision in decisions.items() if isinstance(decision, Release)}


def read_keeps(workspace: Store) -> dict[str, Keep]:
    """Instances that a person wants kept in; each only in the version that was looked at."""
    decisions = read_decisions(workspace)
    return {key: decision for key, decision in decisions.items() if isinstance(decision, Keep)}


def release_of(releases: Mapping[str, Release], instance_id: str, etag: str) -> Release | None:
    """The release of an instance, if it is of this version of the object."""
    release = releases.get(instance_id)
    return release if release is not None and release.etag == etag else None
