"""An instance of the archive, opened again for export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from pydantic import SecretStr

from sonoloop.platform.archive.headers import store_faults
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.reading.members import open_member
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.workspace import Store


@dataclass(frozen=True)
class ArchivedInstances:
    """Opens indexed instances of one archive; made anew in each task."""

    archive: Store
    config: IndexConfig
    key: SecretStr

    @contextmanager
    def open(self, row: InstanceRecord) -> Iterator[Instance]:
        """The instance, whose frames can be read while the block lasts.

        Raises:
            RejectedError: it cannot be fetched or read, or is not the one that was indexed under this key.
            StorageError: no object of the archive can be had.
        """
        name = row.uri.removeprefix(self.archive.uri_of()).lstrip("/")
        with ArchiveReader(self.archive, self.config).open(row.object_info()) as file, store_faults(file):
            stream = cast(BinaryIO, file)
            member = stream if row.member is None else open_member(stream, row.member)
            instance = open_instance(member, name=name)
            if pseudonym(self.key, "instance", instance.instance_uid) != row.instance_id:
                raise RejectedError(
                    Reason.STORAGE,
                    "the object is not the one that was indexed, or the pseudonym key is another",
                )
            yield instance
