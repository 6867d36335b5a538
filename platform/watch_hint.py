"""The hint that reviews may have come: one empty object, of which only the time counts."""

from __future__ import annotations

from datetime import datetime

from sonoloop.platform.workspace import Store

_PLACE = ("watch", "hint")


def write_hint(workspace: Store) -> None:
    """Say that something happened in Label Studio.

    Raises:
        StorageError: the workspace cannot be written.
    """
    workspace.write_bytes(b"", *_PLACE)


def hinted_at(workspace: Store) -> datetime | None:
    """When the last hint was written, by the store's clock; ``None`` where there was none.

    Raises:
        StorageError: the workspace cannot be read.
    """
    return workspace.written_at(*_PLACE)
