"""Files of any size between this machine and a store: in pieces, hashed on the way."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store

PIECE_BYTES = 16 * 2**20
FILES_AT_ONCE = 4
"""One stream from S3 gives some 100 MB/s; a large model comes in shards of 5 GB."""


def upload(source: Path, workspace: Store, *parts: str) -> None:
    """Copy a file into the workspace, whole or not at all.

    Raises:
        StorageError: the store refuses.
    """
    target = workspace.path(*parts)
    with storage_errors(workspace.uri):
        if workspace.is_s3:
            bucket, _, key = target.partition("/")
            with source.open("rb") as stream:
                # boto3, not `fs`: pyarrow's stream, closed by an error, leaves an object that is cut short
                workspace.client.upload_fileobj(stream, bucket, key)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        partial = Path(f"{target}.{secrets.token_hex(4)}.partial")
        try:
            shutil.copyfile(source, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def download(target: Path, workspace: Store, *parts: str) -> str:
    """Copy an object to this machine; returns the SHA-256 of what was written, hexadecimal.

    Raises:
        FileNotFoundError: no such object.
        StorageError: the store refuses.
        OSError: this machine's disk does.
    """
    digest = hashlib.sha256()
    with target.open("wb") as stream:
        for piece in _pieces(workspace, *parts):
            digest.update(piece)
            stream.write(piece)
    return digest.hexdigest()


def stored_digest(workspace: Store, *parts: str) -> str | None:
    """The SHA-256 of an object, hexadecimal; ``None`` where there is none.

    Raises:
        StorageError: the store refuses.
    """
    digest = hashlib.sha256()
    try:
        for piece in _pieces(workspace, *parts):
            digest.update(piece)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file of this machine, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _pieces(workspace: Store, *parts: str) -> Iterator[bytes]:
    path = workspace.path(*parts)
    with storage_errors(workspace.uri), workspace.fs.open_input_stream(path, compression=None) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece
