"""Which reader an object belongs to, by its first bytes."""

from __future__ import annotations

from typing import BinaryIO

from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.dicom import open_dicom
from sonoloop.platform.archive.reading.pictures import open_picture
from sonoloop.platform.errors import Reason, RejectedError


def open_instance(file: BinaryIO, *, name: str) -> Instance:
    """Read an object's header and prepare to decode its frames.

    Args:
        file: The object, seekable; read as little of it as the header takes.
        name: Its key below the archive's root; names case and patient of a plain image.

    Raises:
        RejectedError: empty, no image, truncated, not ultrasound, or larger than anything plausible.
    """
    start = file.read(132)
    file.seek(0)
    if not start:
        raise RejectedError(Reason.EMPTY_OBJECT, "expected an image, found 0 bytes")
    if start[128:132] == b"DICM" or start[:2] in (b"\x08\x00", b"\x00\x08", b"\x02\x00"):
        return open_dicom(file, name)
    return open_picture(file, name)
