"""The registry's own records, read strictly: what another version of sonoloop wrote is not guessed at."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sonoloop.platform.errors import StorageError

M = TypeVar("M", bound=BaseModel)


def parsed(kind: type[M], data: bytes, where: str) -> M:
    """A record from its JSON.

    Args:
        kind: What it should be.
        data: The object's bytes.
        where: The object, for the message.

    Raises:
        StorageError: it is something else.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as err:
        raise StorageError(
            f"{where} is not what this version of sonoloop writes there; use the version that wrote it, or "
            "restore it"
        ) from err
