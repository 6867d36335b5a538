"""What the door and the process that reads a study say to each other, over a pipe.

A message is four bytes of length, a JSON head of that length, and as many bytes as the head's sizes add up
to. JSON rather than pickle: what comes back was made by a process that decoded a stranger's files.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime
from typing import BinaryIO, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig
from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason
from sonoloop.platform.export.config import ExportFormat
from sonoloop.platform.export.results import Result
from sonoloop.platform.records import CaseRecord

MAX_HEAD_BYTES = 2**25
_LENGTH = struct.Struct(">I")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReadStudy(_Message):
    """To the reader: read these files, the message's blobs."""

    kind: Literal["read"] = "read"
    config: IndexConfig
    root: str = Field(description="URI of the workspace")
    now: datetime
    max_objects: int


class StudyRead(_Message):
    """From the reader: a `ReceivedStudy`; the images of the case are the message's blobs, in its order."""

    kind: Literal["study"] = "study"
    case: CaseRecord
    frames: tuple[FrameRecord, ...]
    instances: tuple[InstanceRecord, ...]
    others: tuple[InstanceRecord, ...]
    num_spared: int


class WriteReport(_Message):
    """To the reader, after the study was read: the result as a file."""

    kind: Literal["report"] = "report"
    result: Result
    format: ExportFormat
    confidentiality: ConfidentialityConfig
    language: Literal["en", "zh"]


class ReportWritten(_Message):
    """From the reader; the file is the message's blob."""

    kind: Literal["written"] = "written"


class Refused(_Message):
    """From the reader: why not. ``reason`` is none where a package is missing here."""

    kind: Literal["refused"] = "refused"
    reason: Reason | None
    detail: str


Message: TypeAlias = ReadStudy | StudyRead | WriteReport | ReportWritten | Refused


class _Head(_Message):
    sizes: tuple[NonNegativeInt, ...]
    message: Message = Field(discriminator="kind")


_HEAD = TypeAdapter(_Head)


def send(pipe: BinaryIO, message: Message, blobs: Sequence[bytes] = ()) -> None:
    """Write a message. Blocks.

    Raises:
        OSError: nobody reads it.
    """
    head = _HEAD.dump_json(_Head(sizes=tuple(map(len, blobs)), message=message))
    for part in (_LENGTH.pack(len(head)), head, *blobs):
        pipe.write(part)
    pipe.flush()


def receive(pipe: BinaryIO, *, max_bytes: int) -> tuple[Message, list[bytes]]:
    """Read a message and its blobs. Blocks.

    Args:
        pipe: Where it comes from.
        max_bytes: Of all blobs together.

    Raises:
        EOFError: the pipe ended.
        ValueError: no such message, or a larger one.
    """
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if length > MAX_HEAD_BYTES:
        raise ValueError(f"expected a head of at most {MAX_HEAD_BYTES} bytes, got {length}")
    head = _HEAD.validate_json(_exactly(pipe, length))
    if sum(head.sizes) > max_bytes:
        raise ValueError(f"expected at most {max_bytes} bytes, got {sum(head.sizes)}")
    return head.message, [_exactly(pipe, size) for size in head.sizes]


def _exactly(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data
