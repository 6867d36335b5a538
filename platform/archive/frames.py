"""Stage 2, doing it: key frames of a case's instances, de-identified, into the workspace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from sonoloop.platform.archive.archived import open_indexed
from sonoloop.platform.archive.deidentify.clean import RULES_VERSION, FrameAudit, clean_frames
from sonoloop.platform.archive.deidentify.png import encode_png
from sonoloop.platform.archive.deidentify.quarantine import Keep, Release, release_of
from sonoloop.platform.archive.grouping import CaseWork
from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.keyframes import choose_key_frames, share_budget
from sonoloop.platform.archive.objects.ranged import Objects
from sonoloop.platform.archive.perceptual import perceptual_hash
from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord, MaskedBox
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.records import CaseImage, CaseRecord


class ImageRoom(Protocol):
    """Where images go: the workspace, or the memory of one request."""

    def exists(self, *parts: str) -> bool:
        """Whether the object is there."""

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write an object whole or not at all."""


@dataclass(frozen=True)
class MadeCase:
    """A case and the rows of its frames; images are in their room already.

    ``spared`` are the instances that no frame was asked of.
    """

    case: CaseRecord
    frames: tuple[FrameRecord, ...]
    spared: tuple[str, ...]


@dataclass(frozen=True)
class CaseMaker:
    """Makes cases of one archive in one workspace."""

    objects: Objects
    workspace: ImageRoom
    config: IndexConfig
    now: datetime
    releases: Mapping[str, Release]
    keeps: Mapping[str, Keep] = field(default_factory=dict)

    def make(self, work: CaseWork) -> MadeCase:
        """Write a case's images. An instance whose pixels are rejected gives its share to the others.

        Raises:
            StorageError: no object of the archive can be had, or the workspace cannot be written.
        """
        given: dict[tuple[str, int], list[FrameRecord]] = {}
        refusals: dict[str, FrameRecord] = {}
        while True:
            shares = self._shares([row for row in work.instances if row.instance_id not in refusals])
            for row, share in shares:
                if share and (row.instance_id, share) not in given:
                    given[row.instance_id, share] = self._best(work.copies(row.instance_id), share)
            frames = [given[row.instance_id, share] for row, share in shares if share]
            refused = {rows[0].instance_id: rows[0] for rows in frames if rows[0].status == "rejected"}
            if not refused:
                break
            refusals |= refused
        written = [frame for rows in frames for frame in rows]
        return MadeCase(
            case=self._case(work, written, list(refusals.values())),
            frames=(*written, *refusals.values()),
            spared=tuple(row.instance_id for row, share in shares if not share),
        )

    def _shares(self, rows: Sequence[InstanceRecord]) -> list[tuple[InstanceRecord, int]]:
        """Frames that each instance may give."""
        sizes = [(row.instance_id, row.series_key or "", row.num_frames or 1) for row in rows]
        shares = share_budget(sizes, max_images=self.config.max_images, key_frames=self.config.key_frames)
        return [(row, shares[row.instance_id]) for row in rows]

    def _best(self, copies: Sequence[InstanceRecord], share: int) -> list[FrameRecord]:
        """Of an instance stored more than once, the first copy that can be used, or the first's rejection."""
        if self._is_kept(copies):
            kept = RejectedError(Reason.PHI_SUSPECTED, "a person saw it and keeps it in")
            return [self._rejection(copies[0], kept)]
        frames = [self._frames(copies[0], share)]
        for copy in copies[1:]:
            if frames[-1][0].status == "written":
                break
            frames.append(self._frames(copy, share))
        return frames[-1] if frames[-1][0].status == "written" else frames[0]

    def _is_kept(self, copies: Sequence[InstanceRecord]) -> bool:
        """Whether the decision is about one of the copies: the others show the same."""
        keep = self.keeps.get(copies[0].instance_id)
        return keep is not None and any(row.etag == keep.etag for row in copies)

    def _frames(self, row: InstanceRecord, share: int) -> list[FrameRecord]:
        """The rows of an instance's frames, or its one rejection."""
        release = release_of(self.releases, row.instance_id, row.etag)
        try:
            with open_indexed(self.objects, row) as instance:
                chosen = choose_key_frames(instance.num_frames, share, instance.frame)
                frames = [instance.frame(index) for index in chosen]
                cleaned = clean_frames(frames, instance, self.config.deidentify, release=release)
        except RejectedError as err:
            return [self._rejection(row, err)]
        return [
            self._written(row, index, frame, audit, release)
            for index, frame, audit in zip(chosen, cleaned.frames, cleaned.audits, strict=True)
        ]

    def _written(
        self, row: InstanceRecord, index: int, frame: Frame, audit: FrameAudit, release: Release | None
    ) -> FrameRecord:
        image_key, data = encode_png(frame)
        if not self.workspace.exists(image_key):
            self.workspace.write_bytes(data, image_key)
        assert row.case_id is not None
        return FrameRecord(
            instance_id=row.instance_id,
            case_id=row.case_id,
            frame_index=index,
            status="written",
            image_key=image_key,
            width=frame.shape[1],
            height=frame.shape[0],
            perceptual_hash=perceptual_hash(frame),
            masks=tuple(
                MaskedBox(left=mask.left, top=mask.top, right=mask.right, bottom=mask.bottom, why=mask.why)
                for mask in audit.masks
            ),
            texts_found=audit.texts_found,
            texts_kept=audit.texts_kept,
            rules_version=audit.rules_version,
            released_by=None if release is None else release.by,
            prepared_at=self.now,
        )

    def _rejection(self, row: InstanceRecord, err: RejectedError) -> FrameRecord:
        assert row.case_id is not None
        return FrameRecord(
            instance_id=row.instance_id,
            case_id=row.case_id,
            status="rejected",
            reason=err.reason,
            detail=err.detail,
            retryable=err.retryable,
            rules_version=RULES_VERSION,
            prepared_at=self.now,
        )

    def _case(
        self, work: CaseWork, written: Sequence[FrameRecord], refusals: Sequence[FrameRecord]
    ) -> CaseRecord:
        hints = Counter(row.organ_hint for row in work.rows if row.organ_hint)
        patients = [row.patient_key for row in work.rows if row.patient_key]
        if work.before is not None:
            patients.append(work.before.patient_key)
        return CaseRecord(
            case_id=work.case_id,
            patient_key=patients[0],
            organ_hint=next(iter(hints)) if len(hints) == 1 else None,
            scanner=next((row.scanner for row in work.rows if row.scanner), None),
            images=tuple(map(_case_image, written)),
            inputs_hash=work.inputs_hash,
            num_retryable=sum(bool(frame.retryable) for frame in refusals),
            withdrawn=not written,
            indexed_at=self.now,
        )


def _case_image(frame: FrameRecord) -> CaseImage:
    return CaseImage.model_validate({name: getattr(frame, name) for name in CaseImage.model_fields})
