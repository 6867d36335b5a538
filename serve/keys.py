"""The keys of a workspace: who may ask, for what, how much, until when. One object, ``serve/keys.json``.

| field | meaning |
|---|---|
| name | who it is for; the name that logs and limits go by |
| digest | SHA-256 of the key, hex; the key itself is shown once and kept nowhere |
| scopes | what it opens |
| requests_per_minute, tokens_per_minute | its limits; none where absent |
| created_at, expires_at, revoked_at | UTC; it opens from the first to the earlier of the others |

Why SHA-256 and no slow hash: a slow hash makes guessing dear where a secret can be guessed, and 256 random
bits cannot, at any price of one trial. Source: NIST SP 800-63B (revision 3), 5.1.2.2, wants a salted and slow
hash for random secrets below 112 bits, and any approved hash function for longer ones.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from fastapi import Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sonoloop.platform.errors import ConfigError, StorageError
from sonoloop.platform.workspace import Store

if TYPE_CHECKING:
    from sonoloop.serve.keyring import Keyring

PLACE = ("serve", "keys.json")
PREFIX = "slk-"
"""Makes a leaked key recognisable to people and to scanners for secrets."""
ENVIRONMENT = "environment"
"""Name of the key that the environment of ``sonoloop serve`` holds."""


class Scope(StrEnum):
    """What a key opens."""

    CHAT = "chat"
    DRAFTS = "drafts"


class KeyRecord(BaseModel):
    """What is known of a key; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    scopes: frozenset[Scope] = Field(min_length=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def is_valid(self, at: datetime) -> bool:
        """Whether it opens anything at this time."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


_Records = TypeAdapter(tuple[KeyRecord, ...])


def key_digest(key: str) -> bytes:
    """What the door keeps of a key: enough to compare, too little to reveal it."""
    return hashlib.sha256(key.encode()).digest()


def require(scope: Scope) -> Callable[[Request], Awaitable[KeyRecord]]:
    """A dependency of routes: the key that asks, which opens ``scope`` and is within its limits.

    The application's ``state.keyring`` is the `Keyring`. The dependency leaves the record in the request's
    ``state.key``.
    """

    async def asker(request: Request) -> KeyRecord:
        keyring: Keyring = request.app.state.keyring
        return await keyring.admit(request, scope)

    return asker


def environment_record(digest: bytes) -> KeyRecord:
    """The bootstrap key: it opens everything, without limits."""
    return KeyRecord(
        name=ENVIRONMENT,
        digest=digest.hex(),
        scopes=frozenset(Scope),
        created_at=datetime.fromtimestamp(0, UTC),
    )


def read_keys(workspace: Store) -> tuple[KeyRecord, ...]:
    """All keys, in order of their making; revoked ones too.

    Raises:
        StorageError: the workspace does not answer, or the file is not ours.
    """
    return _read(workspace)[0]


def add_key(
    workspace: Store,
    name: str,
    scopes: Iterable[Scope],
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    valid_for: timedelta | None = None,
) -> tuple[KeyRecord, str]:
    """Make a key.

    Returns:
        Its record, and the key, which cannot be had again.

    Raises:
        ConfigError: the name cannot be used, or is in use, or was once: logs go by it.
        ConflictError: somebody else changed the keys at the same time.
        StorageError: the workspace does not answer.
    """
    key, now = PREFIX + secrets.token_urlsafe(32), datetime.now(UTC)
    try:
        record = KeyRecord(
            name=name,
            digest=key_digest(key).hex(),
            scopes=frozenset(scopes),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            created_at=now,
            expires_at=None if valid_for is None else now + valid_for,
        )
    except ValidationError as err:
        raise ConfigError(
            f"expected a name of small letters, digits, dots and dashes, and a scope; found {name!r}"
        ) from err
    known, version = _read(workspace)
    if name in {ENVIRONMENT, *(other.name for other in known)}:
        raise ConfigError(f"a key named {name!r} is there or was there; choose another name")
    _write(workspace, (*known, record), version)
    return record, key


def revoke_key(workspace: Store, name: str) -> KeyRecord:
    """Close a key for ever; running servers notice within seconds. Closing it again changes nothing.

    Raises:
        ConfigError: there is none of this name.
        ConflictError: somebody else changed the keys at the same time.
        StorageError: the workspace does not answer.
    """
    known, version = _read(workspace)
    found = next((record for record in known if record.name == name), None)
    if found is None:
        raise ConfigError(f"there is no key named {name!r}; see `sonoloop keys list`")
    if found.revoked_at is not None:
        return found
    revoked = found.model_copy(update={"revoked_at": datetime.now(UTC)})
    _write(workspace, (revoked if record is found else record for record in known), version)
    return revoked


def _read(workspace: Store) -> tuple[tuple[KeyRecord, ...], str | None]:
    found = workspace.get_control(*PLACE)
    if found is None:
        return (), None
    data, version = found
    try:
        return _Records.validate_json(data), version
    except ValidationError:  # its text would quote digests
        raise StorageError(
            f"{workspace.uri_of(*PLACE)} is not a list of keys of this version of sonoloop; restore it, or "
            "remove it and make new keys"
        ) from None


def _write(workspace: Store, records: Iterable[KeyRecord], version: str | None) -> None:
    data = json.dumps([record.model_dump(mode="json") for record in records], indent=2).encode()
    workspace.put_control(data, *PLACE, version=version)
