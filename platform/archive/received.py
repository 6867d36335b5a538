"""One study that came with a request instead of an archive, read with all of the archive's rules, in memory.

DICOM files give the ids that indexing gives them, so that a study that is indexed later is the same case.
Pictures have no ids of their own; theirs are made of the content of all files, and their names are not used.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from pydantic import SecretStr

from sonoloop.platform.archive.archived import open_indexed
from sonoloop.platform.archive.frames import CaseMaker, MadeCase
from sonoloop.platform.archive.grouping import CaseWork, frame_settings, inputs_hash_of
from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.objects.ranged import ObjectFile
from sonoloop.platform.archive.reading.members import is_container, iter_members
from sonoloop.platform.archive.reading.open import SNIFFED_BYTES
from sonoloop.platform.archive.reading.pixels import quiet
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.records import content_id
from sonoloop.platform.workspace import ObjectInfo

ROOM = "received"
"""Where rows of received objects say that these lay; nothing is ever written there."""

_DICOM = "1.2.840.10008."
"""How DICOM's transfer syntaxes begin; those of pictures are names of formats."""


class ReceivedImages(dict[str, bytes]):
    """An `ImageRoom` in memory: image key to PNG."""

    def exists(self, *parts: str) -> bool:
        """Whether the image is there."""
        return "/".join(parts) in self

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Keep an image for as long as the request."""
        self["/".join(parts)] = data


@dataclass
class _InMemory:
    """The bytes of a received file, as a `Source`."""

    info: ObjectInfo
    data: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def fetch(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]


class ReceivedFiles:
    """The files of a request, as `Objects`.

    Args:
        files: Their content, in the order in which they were given.
        root: URI of the workspace that their rows may be kept in.
    """

    def __init__(self, files: Sequence[bytes], root: str) -> None:
        self._etags = [content_id(file, length=32) for file in files]
        self._folder = content_id(*self._etags)
        self._root = f"{root}/{ROOM}/"
        places = [f"{self._root}{self._folder}/{number:05d}" for number in range(len(files))]
        self._files = dict(zip(places, files, strict=True))

    @property
    def infos(self) -> list[ObjectInfo]:
        """The files, in their order."""
        return [
            ObjectInfo(uri, len(data), etag)
            for (uri, data), etag in zip(self._files.items(), self._etags, strict=True)
        ]

    def name_of(self, uri: str) -> str:
        """A name made of content: the same folder for all, so that pictures make one case."""
        file, _, member = uri.removeprefix(self._root).partition("!/")
        return f"{file}-{content_id(member)}" if member else file

    def open(self, info: ObjectInfo) -> ObjectFile:
        """The file."""
        return ObjectFile(_InMemory(info, self._files[info.uri]))

    def count_objects(self, most: int) -> int:
        """Files and members of zips and tars together; counting ends above ``most``."""
        return sum(1 for _ in islice(self._objects(), most + 1))

    def _objects(self) -> Iterator[None]:
        for data in self._files.values():
            yield
            if is_container(data[:SNIFFED_BYTES], ""):
                try:
                    yield from (None for _ in iter_members(io.BytesIO(data)))
                except RejectedError:  # its row will say so
                    continue


@dataclass(frozen=True)
class ReceivedStudy:
    """A study as it was read.

    Attributes:
        made: The case and the rows of its frames.
        instances: Rows of the case's instances.
        others: Rows of what is no part of the case: rejected files, and pictures beside DICOM files.
        images: PNG by image key.
    """

    made: MadeCase
    instances: tuple[InstanceRecord, ...]
    others: tuple[InstanceRecord, ...]
    images: Mapping[str, bytes] = field(repr=False)


class StudyReader:
    """Reads the files of one request.

    Args:
        files: Their content.
        config: Settings of indexing.
        key: Of the pseudonyms.
        root: URI of the workspace.
        now: When it was received, UTC.
    """

    def __init__(
        self, files: Sequence[bytes], config: IndexConfig, key: SecretStr, *, root: str, now: datetime
    ) -> None:
        self._files = ReceivedFiles(files, root)
        self._config, self._key, self._now = config, key, now

    def read(self, *, max_objects: int) -> ReceivedStudy:
        """The case, its key frames de-identified; what cannot be shown clean is a rejection among its rows.

        Args:
            max_objects: Files and members of zips and tars, at most.

        Raises:
            RejectedError: ``TOO_LARGE``, more objects than that; ``BAD_ENTRY``, several studies; otherwise
                the reason why no file of it is an ultrasound study.
        """
        if self._files.count_objects(max_objects) > max_objects:
            raise RejectedError(Reason.TOO_LARGE, f"expected at most {max_objects} files, found more")
        reader = HeaderReader(self._files, self._key, self._now)
        with quiet():
            rows = [row for info in self._files.infos for row in reader.read(info)]
            case_id, instances = _one_study([row for row in rows if row.status == "indexed"], rows)
            versions = ((row.instance_id, row.etag) for row in instances)
            work = CaseWork(case_id, inputs_hash_of(versions, frame_settings(self._config)), instances)
            images = ReceivedImages()
            made = CaseMaker(self._files, images, self._config, self._now, {}).make(work)
        others = tuple(row for row in rows if row.status != "container" and row not in instances)
        return ReceivedStudy(made, instances, others, images)

    def open(self, row: InstanceRecord) -> AbstractContextManager[Instance]:
        """As `open_indexed`."""
        return open_indexed(self._files, row)


def _one_study(
    indexed: Sequence[InstanceRecord], rows: Sequence[InstanceRecord]
) -> tuple[str, tuple[InstanceRecord, ...]]:
    """The study of the DICOM files, or else of the pictures."""
    dicom = [row for row in indexed if (row.transfer_syntax or "").startswith(_DICOM)]
    case_ids = {row.case_id for row in dicom or indexed}
    if not case_ids:
        reasons = [row for row in rows if row.reason is not None]
        reason = Reason(reasons[0].reason) if reasons and reasons[0].reason else Reason.NO_PIXELS
        raise RejectedError(reason, (reasons[0].detail if reasons else None) or "no file was given")
    if len(case_ids) > 1:
        raise RejectedError(Reason.BAD_ENTRY, f"expected the files of one study, found {len(case_ids)}")
    case_id = case_ids.pop()
    assert case_id is not None
    return case_id, tuple(row for row in indexed if row.case_id == case_id)


def file_number(row: InstanceRecord) -> int:
    """Which of the received files the object is, or lies in; counts from 0."""
    return int(row.object_info().uri.rpartition("/")[2])


def without_paths(row: InstanceRecord) -> InstanceRecord:
    """The row of a received object as it may be kept: a member's path is a name that somebody gave."""
    if row.member is None:
        return row
    member = content_id(row.member)
    return row.model_copy(update={"member": member, "uri": row.uri.removesuffix(row.member) + member})
