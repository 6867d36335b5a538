"""Members of zip and tar archives, read where they lie: nothing is unpacked to a disk.

A member's path is a label and never touches a file system, so ``../`` and links do no harm. Only plain files
are listed: no folders, links or devices. What an archive claims is bounded before it is believed.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from gzip import GzipFile
from typing import BinaryIO, cast

from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.records import content_id

MAX_MEMBERS = 100_000
MAX_MEMBER_BYTES = 512 * 2**20
"""A compressed member is inflated into memory; a stored one is read in place and may be of any size."""
MAX_TOTAL_BYTES = 64 * 2**30
"""All members together, as they claim."""
MAX_INFLATED_TAR_BYTES = 4 * 2**30
"""A compressed tar has no directory: whoever wants its last member inflates all before it."""
MAX_RATIO = 400
"""Claimed size over stored size; black frames deflate to a two-hundredth, zeros to a thousandth."""
MAX_DIRECTORY_BYTES = 16 * 2**20
"""Of a zip's directory, or of one header of a tar: both are read into memory whole."""
_SMALL = 2**20
_TAR_MARK, _GZIP_START, _ZIP_STARTS = slice(257, 262), b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")
_ENCRYPTED = 0x1
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class Member:
    """One file in an archive; ``fingerprint`` changes with its content or, in a tar, with its header."""

    path: str
    size_bytes: int
    fingerprint: str


Opener = Callable[[], BinaryIO]


def is_container(start: bytes, name: str) -> bool:
    """Whether an object is a zip or tar, by its first 512 bytes; only a tar without a mark by its name."""
    if start.startswith(_ZIP_STARTS) or start[_TAR_MARK] == b"ustar":
        return True
    if start.startswith(_GZIP_START):
        return name.lower().endswith((".tar.gz", ".tgz")) or _inflated_start(start)[_TAR_MARK] == b"ustar"
    return name.lower().endswith(".tar") and len(start) >= tarfile.BLOCKSIZE


def open_member(file: BinaryIO, member_path: str) -> BinaryIO:
    """One member as a seekable file; ``file``, the archive, has to stay open.

    A stored member is read in place, a compressed one is inflated into memory. The archive's directory is
    read each time: for many members of one archive, `iter_members` reads it once. Of several members with
    one path the last is opened, as unpacking would leave it.

    Raises:
        RejectedError: as `iter_members` and its openers; `UNREADABLE` where there is no such member.
    """
    openers = {member.path: opener for member, opener in iter_members(file)}
    if member_path not in openers:
        raise RejectedError(Reason.UNREADABLE, "the archive has no such member any more")
    return openers[member_path]()


def iter_members(file: BinaryIO) -> Iterator[tuple[Member, Opener]]:
    """The files in an archive, each with a function that opens it.

    Args:
        file: The archive, seekable; a zip's directory is read, or a tar's headers, or a compressed tar whole,
            once if members are opened in order.

    Raises:
        RejectedError: `UNREADABLE`, no archive or a broken one; `TOO_LARGE`, it claims too much. An opener
            raises it where that one member is encrypted, too large or broken.
    """
    ranged, total = RangedFile(file), 0
    read = _zip_members if ranged.read_at(0, 4).startswith(_ZIP_STARTS) else _tar_members
    found = read(ranged)
    for number in range(1, MAX_MEMBERS + 2):
        with _broken_is_refused():
            pair = next(found, None)
        if pair is None:
            return
        total += pair[0].size_bytes
        if total > MAX_TOTAL_BYTES or number > MAX_MEMBERS:
            raise RejectedError(Reason.TOO_LARGE, f"an archive of {number} members and {total} bytes or more")
        yield pair


@contextmanager
def _broken_is_refused() -> Iterator[None]:
    try:
        yield
    except RejectedError:
        raise
    except Exception as err:  # as with decoders: arbitrary bytes, and messages that may quote a name
        raise RejectedError(Reason.UNREADABLE, f"the archive cannot be read ({type(err).__name__})") from None


def _zip_members(file: RangedFile) -> Iterator[tuple[Member, Opener]]:
    file.limit_reading(MAX_DIRECTORY_BYTES)
    archive = zipfile.ZipFile(file)
    file.limit_reading(None)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if sum(info.compress_size for info in infos) > file.size:
        raise RejectedError(Reason.TOO_LARGE, "the archive's members lie over each other")
    for info in infos:
        member = Member(info.filename, info.file_size, f"{info.CRC:08x}-{info.file_size}")
        yield member, partial(_open_zipped, file, archive, info)


def _open_zipped(file: RangedFile, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    with _broken_is_refused():
        if info.flag_bits & _ENCRYPTED:
            raise RejectedError(Reason.UNREADABLE, "the member is encrypted")
        if info.compress_type == zipfile.ZIP_STORED:
            header = file.read_at(info.header_offset, _LOCAL_HEADER_BYTES)
            lengths = (int.from_bytes(header[place : place + 2], "little") for place in (26, 28))
            start = info.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)
            return file.joined([(start, start + info.file_size)])
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise RejectedError(Reason.UNREADABLE, "the member is compressed in a way other than deflate")
        _refuse_bomb(info.file_size, info.compress_size)
        with archive.open(info) as member:
            return io.BytesIO(member.read())  # never gives more than the claimed size


def _refuse_bomb(size: int, stored: int) -> None:
    if size > MAX_MEMBER_BYTES or (size > _SMALL and size > MAX_RATIO * stored):
        raise RejectedError(Reason.TOO_LARGE, f"the member claims {size} bytes out of {stored}")


def _tar_members(file: RangedFile) -> Iterator[tuple[Member, Opener]]:
    is_gzip = file.read_at(0, 2) == _GZIP_START
    stream = cast(BinaryIO, _BoundedGzip(file) if is_gzip else file.joined([(0, file.size)]))
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="backslashreplace") as archive:
        for number, info in enumerate(archive):  # tarfile keeps them all, folders too
            if number >= MAX_MEMBERS:
                raise RejectedError(Reason.TOO_LARGE, f"an archive of more than {MAX_MEMBERS} entries")
            if info.isfile() and not info.issparse():
                fingerprint = content_id(str(info.mtime), str(info.size), str(info.chksum))
                opener = partial(_open_tarred, file, stream if is_gzip else None, info)
                yield Member(info.name, info.size, fingerprint), opener
        stream.seek(archive.offset)
        if any(stream.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
            raise RejectedError(Reason.TRUNCATED, "the archive is cut off or broken behind its last member")


def _open_tarred(file: RangedFile, stream: BinaryIO | None, info: tarfile.TarInfo) -> BinaryIO:
    with _broken_is_refused():
        if stream is None:
            return file.joined([(info.offset_data, info.offset_data + info.size)])
        _refuse_bomb(info.size, file.size)
        stream.seek(info.offset_data)
        data = stream.read(info.size)
        if len(data) < info.size:
            raise RejectedError(Reason.TRUNCATED, "the archive ends within the member")
        return io.BytesIO(data)


class _BoundedGzip(GzipFile):
    """Refuses to inflate past what a tar of this size can hold, and to read a header of any size."""

    def __init__(self, file: RangedFile) -> None:
        super().__init__(fileobj=file.joined([(0, file.size)]), mode="rb")
        self._end = min(MAX_INFLATED_TAR_BYTES, max(MAX_RATIO * file.size, _SMALL))

    def read(self, size: int | None = -1) -> bytes:
        size = MAX_MEMBER_BYTES + 1 if size is None or size < 0 else size
        if size > MAX_MEMBER_BYTES:
            raise RejectedError(Reason.TOO_LARGE, f"a header of the archive claims {size} bytes")
        self._refuse_past_end(self.tell() + size)
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._refuse_past_end(offset)
        return super().seek(offset, whence)

    def _refuse_past_end(self, place: int) -> None:
        if place > self._end + tarfile.RECORDSIZE:
            raise RejectedError(Reason.TOO_LARGE, f"the archive inflates to more than {self._end} bytes")


def _inflated_start(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start, tarfile.BLOCKSIZE)
    except zlib.error:
        return b""
