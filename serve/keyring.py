"""Who may ask: each request's key against the workspace's keys, its scope and its limits.

Keys are read again while requests come, so a new one opens and a revoked one closes a running door within
`REFRESH_S`. Where the workspace does not answer, what was read last holds for `KEPT_S`, and nothing after
that (fail closed). The environment's key needs no workspace.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import Request

from sonoloop.platform.errors import StorageError
from sonoloop.platform.workspace import Store
from sonoloop.serve.keys import KeyRecord, Scope, environment_record, key_digest, read_keys
from sonoloop.serve.protocol import ApiError
from sonoloop.serve.rates import Meter

logger = logging.getLogger(__name__)

REFRESH_S = 1.0
KEPT_S = 60.0
PATIENCE_S = 2.0
"""How long one request waits for a workspace that is slow, while older keys hold."""


@dataclass
class Bill:
    """What one answer has cost so far."""

    tokens: int = 0


class Keyring:
    """The keys that open one door.

    Args:
        digest: `key_digest` of the environment's key.
        workspace: Where further keys are; without one there are none.
    """

    def __init__(self, digest: bytes, workspace: Store | None = None) -> None:
        self._environment = environment_record(digest)
        self._workspace = workspace
        self._records: tuple[KeyRecord, ...] = ()
        self._read_at = self._tried_at = -math.inf
        self._reading: asyncio.Task[None] | None = None
        self._meters: dict[str, Meter] = {}

    async def admit(self, request: Request, scope: Scope) -> KeyRecord:
        """Let a request in, and count it.

        Raises:
            ApiError: 401 no valid key; 403 not its scope; 429 over its limits; 503 no keys can be read.
        """
        record = await self._record_of(given_key(request.headers.get("authorization", "")))
        if record is None:
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                "expected the header Authorization: Bearer with a valid API key of this server",
                code="invalid_api_key",
            )
        request.state.key = record
        if scope not in record.scopes:
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"expected a key with the scope {scope}; this one has {', '.join(sorted(record.scopes))}",
                code="insufficient_scope",
            )
        meter = self._meters.setdefault(record.name, Meter.of(record))
        reached = meter.enter()
        request.state.limits = meter.headers()
        if reached is not None:
            raise _over_limit(*reached)
        return record

    @contextmanager
    def charged(self, record: KeyRecord) -> Iterator[Bill]:
        """Charge what is on the bill at the end to a key, however the answer ends."""
        bill = Bill()
        try:
            yield bill
        finally:
            self.charge(record, bill.tokens)

    def charge(self, record: KeyRecord, tokens: int) -> None:
        """Charge tokens to a key, also where its answer has left already."""
        self._meters.setdefault(record.name, Meter.of(record)).spend(tokens)

    async def _record_of(self, key: str | None) -> KeyRecord | None:
        if key is None:
            return None
        digest = key_digest(key).hex()
        if hmac.compare_digest(digest, self._environment.digest):
            return self._environment
        found = None
        for record in await self._current():  # all of them, always: no time tells which one it is
            if hmac.compare_digest(digest, record.digest):
                found = record
        return found if found is not None and found.is_valid(datetime.now(UTC)) else None

    async def _current(self) -> tuple[KeyRecord, ...]:
        if self._workspace is None:
            return ()
        if self._reading is None and time.monotonic() - self._tried_at > REFRESH_S:
            self._tried_at = time.monotonic()
            self._reading = asyncio.create_task(self._read(self._workspace))
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=PATIENCE_S)
        if time.monotonic() - self._read_at > KEPT_S:
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "keys cannot be read from the workspace; ask again later",
                code="keys_unavailable",
                retry_after_s=math.ceil(PATIENCE_S),
            )
        return self._records

    async def _read(self, workspace: Store) -> None:
        try:
            self._records = await asyncio.to_thread(read_keys, workspace)
            self._read_at = time.monotonic()
        except (StorageError, OSError) as err:
            logger.warning("the workspace's keys cannot be read (%s)", type(err).__name__)
        finally:
            self._reading = None


def given_key(header: str) -> str | None:
    """The key of a request: a bearer token, or the password of any user, as Label Studio sends it."""
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def _over_limit(kind: str, wait_s: float) -> ApiError:
    wait = math.ceil(wait_s)
    return ApiError(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"this key's limit of {kind} per minute is reached; come back in {wait} s",
        code="rate_limit_exceeded",
        retry_after_s=wait,
    )
