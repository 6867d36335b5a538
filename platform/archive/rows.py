"""The archive's own tables.

``InstanceRecord`` (``instances/``), one row per object of the archive:

| column | dtype | meaning |
|---|---|---|
| instance_id | string | keyed hash of the SOP Instance UID; of a rejected object, hash of URI and etag |
| uri | string | where the object lies, ``<uri>!/<member>`` in a zip or tar; stays in this table |
| member | string | path inside a zip or tar; null for other objects; stays in this table |
| etag | string | the object's version as the store names it |
| size_bytes | int64 | object size, bytes |
| status | string | ``indexed``, ``rejected``, ``container`` (its members have rows), ``gone`` |
| case_id, patient_key, series_key | string | keyed hashes of study, patient and series; null when rejected |
| organ_hint, laterality | string | an organ of the lexicon and a side, where the header names them |
| scanner, vendor, transducer | string | the machine, where the header names it |
| modes | list of string | imaging modes that the header tells of |
| mm_per_pixel | list of double | width and height of a pixel; null where the 2-D regions differ or none is |
| has_overlays, has_measurements | bool | graphics beside the pixels; measurements in the header |
| frame_time_ms | double | time between frames of a loop |
| modality, transfer_syntax, sop_class | string | DICOM's, null for plain images |
| num_frames, rows, columns | int32 | pixels of the instance |
| num_regions | int32 | ultrasound regions that the header declares |
| reason, detail, retryable | string, string, bool | why it was rejected; null when indexed |
| bytes_read, requests | int64, int32 | what reading the header cost |
| indexed_at | timestamp[us, UTC] | when; the newest row of a URI counts |

``FrameRecord`` (``frames/``), one row per image that was written, and one per instance whose pixels could not
be used:

| column | dtype | meaning |
|---|---|---|
| instance_id, case_id | string | where the frame belongs |
| frame_index | int32 | counts from 0; null when rejected |
| status | string | ``written`` or ``rejected`` |
| image_key | string | workspace key of the image |
| width, height | int32 | pixels |
| perceptual_hash | string | alike for pictures that look alike |
| masks | list of struct | blackened rectangles, pixels, both ends inside, and a code that says why |
| texts_found, texts_kept | int32 | pieces of text found in the frame, and those known to be harmless |
| rules_version | string | rules of de-identification that were applied |
| released_by | string | pseudonym of the person who released the instance, null for most |
| reason, detail, retryable | string, string, bool | why it was rejected; null when written |
| prepared_at | timestamp[us, UTC] | when; the rows of a case's newest preparation count |
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from sonoloop.platform.errors import Reason
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.records import Record
from sonoloop.platform.workspace import ObjectInfo

_TIME = pa.timestamp("us", tz="UTC")
_MASK = pa.struct(
    [
        ("left", pa.int32()),
        ("top", pa.int32()),
        ("right", pa.int32()),
        ("bottom", pa.int32()),
        ("why", pa.string()),
    ]
)


class InstanceRecord(Record):
    """One object of the archive: indexed into a case, rejected, opened as a zip or tar, or gone."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("instance_id", pa.string()),
            ("uri", pa.string()),
            ("member", pa.string()),
            ("etag", pa.string()),
            ("size_bytes", pa.int64()),
            ("status", pa.string()),
            ("case_id", pa.string()),
            ("patient_key", pa.string()),
            ("series_key", pa.string()),
            ("organ_hint", pa.string()),
            ("laterality", pa.string()),
            ("scanner", pa.string()),
            ("vendor", pa.string()),
            ("transducer", pa.string()),
            ("modes", pa.list_(pa.string())),
            ("mm_per_pixel", pa.list_(pa.float64())),
            ("has_overlays", pa.bool_()),
            ("has_measurements", pa.bool_()),
            ("frame_time_ms", pa.float64()),
            ("modality", pa.string()),
            ("transfer_syntax", pa.string()),
            ("sop_class", pa.string()),
            ("num_frames", pa.int32()),
            ("rows", pa.int32()),
            ("columns", pa.int32()),
            ("num_regions", pa.int32()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("retryable", pa.bool_()),
            ("bytes_read", pa.int64()),
            ("requests", pa.int32()),
            ("indexed_at", _TIME),
        ]
    )
    instance_id: str
    uri: str
    member: str | None = None
    etag: str
    size_bytes: int
    status: Literal["indexed", "rejected", "container", "gone"]
    case_id: str | None = None
    patient_key: str | None = None
    series_key: str | None = None
    organ_hint: Organ | None = None
    laterality: str | None = None
    scanner: str | None = None
    vendor: str | None = None
    transducer: str | None = None
    modes: tuple[str, ...] = ()
    mm_per_pixel: tuple[float, float] | None = None
    has_overlays: bool | None = None
    has_measurements: bool | None = None
    frame_time_ms: float | None = None
    modality: str | None = None
    transfer_syntax: str | None = None
    sop_class: str | None = None
    num_frames: int | None = None
    rows: int | None = None
    columns: int | None = None
    num_regions: int | None = None
    reason: Reason | None = None
    detail: str | None = None
    retryable: bool | None = None
    bytes_read: int = 0
    requests: int = 0
    indexed_at: datetime

    def object_info(self) -> ObjectInfo:
        """The stored object: the one itself, or the zip or tar that holds it."""
        if self.member is None:
            return ObjectInfo(self.uri, self.size_bytes, self.etag)
        return ObjectInfo(self.uri.removesuffix(f"!/{self.member}"), -1, self.etag)


class MaskedBox(BaseModel):
    """A blackened rectangle, pixels, both ends inside."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    left: int
    top: int
    right: int
    bottom: int
    why: str


class FrameRecord(Record):
    """One image in the workspace and what was done to it, or why an instance gave none."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("instance_id", pa.string()),
            ("case_id", pa.string()),
            ("frame_index", pa.int32()),
            ("status", pa.string()),
            ("image_key", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("perceptual_hash", pa.string()),
            ("masks", pa.list_(_MASK)),
            ("texts_found", pa.int32()),
            ("texts_kept", pa.int32()),
            ("rules_version", pa.string()),
            ("released_by", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("retryable", pa.bool_()),
            ("prepared_at", _TIME),
        ]
    )
    instance_id: str
    case_id: str
    frame_index: int | None = None
    status: Literal["written", "rejected"]
    image_key: str | None = None
    width: int | None = None
    height: int | None = None
    perceptual_hash: str | None = None
    masks: tuple[MaskedBox, ...] = ()
    texts_found: int = 0
    texts_kept: int = 0
    rules_version: str
    released_by: str | None = None
    reason: Reason | None = None
    detail: str | None = None
    retryable: bool | None = None
    prepared_at: datetime
