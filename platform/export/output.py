"""Writing what is exported: whole files or none, and files too large for memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store


@contextmanager
def writing(out: Store, *parts: str) -> Iterator[BinaryIO]:
    """A file that appears under its name once the block ends well.

    Raises:
        StorageError: the place cannot be written.
    """
    with TemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.seek(0)
        target = out.path(*parts)
        with storage_errors(out.uri):
            if not out.is_s3:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            with out.fs.open_output_stream(target if out.is_s3 else f"{target}.partial") as stream:
                shutil.copyfileobj(file, stream, 1 << 20)
            if not out.is_s3:
                Path(f"{target}.partial").replace(target)
