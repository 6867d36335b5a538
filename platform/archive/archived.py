"""An instance that was indexed, opened again: for its frames, for export, for a person's eyes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, cast

from pydantic import SecretStr

from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.objects.ranged import Objects, store_faults
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.reading.members import open_member
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.workspace import Store


@contextmanager
def open_indexed(objects: Objects, row: InstanceRecord) -> Iterator[Instance]:
    """The instance of a row, whose frames can be read while the block lasts.

    Raises:
        RejectedError: it cannot be fetched or read.
        StorageError: no object of the archive can be had.
    """
    with objects.open(row.object_info()) as file, store_faults(file):
        stream = cast(BinaryIO, file)
        member = stream if row.member is None else open_member(stream, row.member)
        yield open_instance(member, name=objects.name_of(row.uri))


@dataclass(frozen=True)
class ArchivedInstances:
    """Opens indexed instances of one archive under one key; travels between processes."""

    archive: Store
    config: IndexConfig
    key: SecretStr

    @cached_property
    def _objects(self) -> ArchiveReader:
        return ArchiveReader(self.archive, self.config)

    @contextmanager
    def open(self, row: InstanceRecord) -> Iterator[Instance]:
        """As `open_indexed`, and surely the instance that was indexed.

        Raises:
            RejectedError: it cannot be fetched or read, or is not the one that was indexed under this key.
            StorageError: no object of the archive can be had.
        """
        with open_indexed(self._objects, row) as instance:
            if pseudonym(self.key, "instance", instance.instance_uid) != row.instance_id:
                raise RejectedError(
                    Reason.STORAGE,
                    "the object is not the one that was indexed, or the pseudonym key is another",
                )
            yield instance
