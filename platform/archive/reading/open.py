"""Which reader an object belongs to, by its first bytes."""

from __future__ import annotations

from typing import BinaryIO

from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.arrays import ARRAY_START, open_array
from sonoloop.platform.archive.reading.dicom import open_dicom
from sonoloop.platform.archive.reading.members import is_container
from sonoloop.platform.archive.reading.pictures import open_picture
from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.archive.reading.video import open_video, video_format
from sonoloop.platform.errors import Reason, RejectedError

SNIFFED_BYTES = 512
_DICOM_STARTS = (b"\x08\x00", b"\x00\x08", b"\x02\x00")
"""Group numbers of a dataset without preamble, either byte order."""


def open_instance(file: BinaryIO, *, name: str) -> Instance:
    """Read an object's header and prepare to decode its frames.

    Args:
        file: The object, seekable. What the header takes is read, in blocks of 64 kB, and later what each
            frame takes; it has to stay open for as long as frames are asked for, by one thread at a time.
        name: Its key below the archive's root; names case and patient of a plain image.

    Raises:
        RejectedError: empty, no image, truncated, not ultrasound, or larger than anything plausible.
    """
    ranged = RangedFile(file)
    start = ranged.read_at(0, SNIFFED_BYTES)
    if not start:
        raise RejectedError(Reason.EMPTY_OBJECT, "expected an image, found 0 bytes")
    if start[128:132] == b"DICM" or start.startswith(_DICOM_STARTS):
        return open_dicom(ranged, name)
    if is_container(start, name):
        raise RejectedError(
            Reason.NOT_AN_IMAGE, "an archive; its members are indexed as objects, those of inner archives not"
        )
    if start.startswith(ARRAY_START):
        return open_array(ranged, name)
    if kind := video_format(start):
        return open_video(ranged, name, kind)
    return open_picture(ranged, name)
