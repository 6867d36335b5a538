"""From an object of the archive to its rows of ``instances/``: headers are read, pixels are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

from pydantic import SecretStr
from pydicom.uid import UID_dictionary

from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.objects.ranged import ObjectFile, Objects, store_faults
from sonoloop.platform.archive.reading.members import Member, is_container, iter_members
from sonoloop.platform.archive.reading.open import SNIFFED_BYTES, open_instance
from sonoloop.platform.archive.reading.pixels import quiet
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.errors import RejectedError
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.records import content_id
from sonoloop.platform.workspace import ObjectInfo

_FACTS = (
    "organ_hint",
    "laterality",
    "scanner",
    "vendor",
    "transducer",
    "modes",
    "mm_per_pixel",
    "has_overlays",
    "has_measurements",
    "frame_time_ms",
)
"""Fields of `UltrasoundFacts` that are columns of the table."""


@dataclass(frozen=True)
class HeaderReader:
    """Reads headers of one archive under one key."""

    objects: Objects
    key: SecretStr
    now: datetime

    def read_all(
        self, infos: Sequence[ObjectInfo], *, at_once: int, done: Callable[[InstanceRecord], None]
    ) -> list[InstanceRecord]:
        """The rows of each object; ``done`` sees each row as it comes.

        Raises:
            StorageError: no object of the archive can be had.
        """
        rows = []
        # around the threads: the readers' own silence comes and goes with each of them
        with quiet(), ThreadPoolExecutor(at_once) as pool:
            try:
                for found in pool.map(self.read, infos):
                    rows += found
                    for row in found:
                        done(row)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return rows

    def read(self, info: ObjectInfo) -> list[InstanceRecord]:
        """An object's row, and those of its members where it is a zip or tar.

        Never raises for a bad object: the rejection is the result.

        Raises:
            StorageError: no object of the archive can be had.
        """
        members: dict[str, InstanceRecord] = {}
        place = _Place(info)
        try:
            file = self.objects.open(info)
            place = _Place(info, file=file)
            with store_faults(file):
                if is_container(file.read(SNIFFED_BYTES), info.uri):
                    for member, opener in iter_members(cast(BinaryIO, file)):
                        row = self._instance_row(_Place(info, file=file, member=member), opener)
                        members[row.uri] = row  # of members with one path the last counts, as if unpacked
                    own = self._row(place, status="container", instance_id=place.id)
                else:
                    own = self._instance_row(place, lambda: cast(BinaryIO, file))
        except RejectedError as err:
            own = self._rejected(place, err)
        return [own, *members.values()]

    def _instance_row(self, place: _Place, opener: Callable[[], BinaryIO]) -> InstanceRecord:
        assert place.file is not None
        try:
            with store_faults(place.file):
                instance = open_instance(opener(), name=self.objects.name_of(place.uri))
        except RejectedError as err:
            return self._rejected(place, err)
        return self._indexed(place, instance)

    def _rejected(self, place: _Place, err: RejectedError) -> InstanceRecord:
        reason = {"reason": err.reason, "detail": err.detail, "retryable": err.retryable}
        return self._row(place, status="rejected", instance_id=place.id, **reason)

    def _indexed(self, place: _Place, instance: Instance) -> InstanceRecord:
        sop_class = "" if instance.dataset is None else str(instance.dataset.get("SOPClassUID", ""))
        return self._row(
            place,
            instance_id=pseudonym(self.key, "instance", instance.instance_uid),
            status="indexed",
            case_id=pseudonym(self.key, "study", instance.study_id),
            patient_key=pseudonym(self.key, "patient", instance.patient_id),
            series_key=pseudonym(self.key, "series", instance.series_id),
            **{name: getattr(instance.facts, name) for name in _FACTS},
            modality=instance.modality,
            transfer_syntax=instance.transfer_syntax,
            sop_class=sop_class if sop_class in UID_dictionary else None,  # a header may hold anything there
            num_frames=instance.num_frames,
            rows=instance.rows,
            columns=instance.columns,
            num_regions=len(instance.regions),
        )

    def _row(self, place: _Place, **facts: Any) -> InstanceRecord:
        return InstanceRecord(**place.columns(), indexed_at=self.now, **facts)


@dataclass(frozen=True)
class _Place:
    """Where a row's object lies; what reading cost stands in the row of the object, not of its members."""

    info: ObjectInfo
    file: ObjectFile | None = None
    member: Member | None = None

    @property
    def uri(self) -> str:
        return self.info.uri if self.member is None else f"{self.info.uri}!/{self.member.path}"

    @property
    def id(self) -> str:
        """Stands for an instance id where the object has none."""
        return content_id(self.uri, self.info.etag)

    def columns(self) -> dict[str, Any]:
        known = self.info if self.file is None else self.file.info
        columns: dict[str, Any] = {"uri": self.uri, "etag": known.etag, "size_bytes": known.size_bytes}
        if self.member is not None:
            return {**columns, "member": self.member.path, "size_bytes": self.member.size_bytes}
        if self.file is not None:
            columns |= {"bytes_read": self.file.bytes_read, "requests": self.file.requests}
        return columns
