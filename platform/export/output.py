"""Writing what is exported: whole files or none, and files too large for memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, cast

from sonoloop.platform.transfer import upload
from sonoloop.platform.workspace import Store


@contextmanager
def writing(out: Store, *parts: str) -> Iterator[BinaryIO]:
    """A file that appears under its name once the block ends well.

    Raises:
        StorageError: the place cannot be written.
    """
    with NamedTemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.flush()
        upload(Path(file.name), out, *parts)
