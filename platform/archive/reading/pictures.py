"""Plain pictures, through Pillow: stills, and the pages of a TIFF or GIF, WebP or PNG animation as a loop."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.reading import optional
from sonoloop.platform.archive.reading.codestream import JXL_STARTS, read_codestream
from sonoloop.platform.archive.reading.pixels import (
    MAX_FRAME_PIXELS,
    MAX_FRAMES,
    decoding,
    quiet,
    to_uint8,
)
from sonoloop.platform.archive.reading.plain import plain_instance
from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.errors import Reason, RejectedError

PICTURE_FORMATS = ["PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP", "GIF", *["JXL"] * optional.HAS_JPEG_XL]
"""Pillow knows more, some of which start other programs (EPS)."""
MAX_PICTURE_BYTES = 256 * 2**20
"""Some of its readers take the whole file into memory."""
_GREY_MODES = ("1", "L", "LA", "La")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation to what makes a picture upright."""
_EXCHANGED = tuple(_TURNS[number] for number in (5, 6, 7, 8))
"""Turns that exchange rows and columns."""
_TIFF_TILE = (322, 323)


def open_picture(file: RangedFile, name: str) -> Instance:
    """Read a picture's header; raises `RejectedError`."""
    if file.size > MAX_PICTURE_BYTES:
        raise RejectedError(Reason.TOO_LARGE, f"a picture of {file.size} bytes")
    try:
        with quiet():
            start = file.read_at(0, 4096)
            optional.refuse_without(optional.HAS_JPEG_XL or not start.startswith(JXL_STARTS))
            _refuse_claims(start)
            picture = Picture(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RejectedError(Reason.TOO_LARGE, "claims more pixels than any picture has") from None
    except RejectedError:
        raise
    except Exception as err:  # arbitrary bytes; the message may quote them, the type does not
        raise RejectedError(
            Reason.NOT_AN_IMAGE, f"expected DICOM, a picture, a video or an array ({type(err).__name__})"
        ) from None
    return plain_instance(
        name, kind=picture.kind, num_frames=picture.num_frames, size=picture.size, frame=picture.frame
    )


def _refuse_claims(start: bytes) -> None:
    """JPEG XL and animated WebP allocate when they are opened, as their header says; so it is read first."""
    rows, columns = 0, 0
    if claims := read_codestream(start):
        rows, columns = claims.rows, claims.columns
    elif start[8:16] == b"WEBPVP8X":
        columns, rows = (int.from_bytes(start[place : place + 3], "little") + 1 for place in (24, 27))
    _check_size(rows, columns)


def _check_size(rows: int, columns: int) -> None:
    if rows * columns > MAX_FRAME_PIXELS:
        raise RejectedError(Reason.TOO_LARGE, f"claims {rows} x {columns} pixels")


class Picture:
    """The pages of one file that are as large as its first; upright, as its EXIF orientation says."""

    def __init__(self, file: RangedFile) -> None:
        self._file, self._at = file, -1
        picture = self._reopen()
        self.kind = f"{picture.format}"
        self._stored_size = picture.size
        self._check_size()
        self._turn = _TURNS.get(_orientation(picture))
        columns, rows = picture.size
        self.size = (columns, rows) if self._turn in _EXCHANGED else (rows, columns)
        self._pages = self._find_pages()
        self.num_frames = len(self._pages)

    def frame(self, index: int) -> Frame:
        """One page, ``(rows, columns[, 3])``, uint8; colour in every page of a loop, alpha dropped."""
        with decoding(index, self.num_frames):
            page = self._pages[index]
            if page <= self._at:  # Pillow 13 cannot go back in a PNG animation, nor try a broken page again
                self._reopen()
            if page:
                self._picture.seek(page)
            self._at = page
            if self._picture.size != self._stored_size:
                raise RejectedError(Reason.UNREADABLE, f"page {index} is of another size than the first")
            pixels = self._pixels()
            return pixels if self._turn is None else np.asarray(Image.fromarray(pixels).transpose(self._turn))

    def _reopen(self) -> Image.Image:
        self._file.seek(0)
        self._picture, self._at = Image.open(self._file, formats=PICTURE_FORMATS), -1
        return self._picture

    def _pixels(self) -> Frame:
        mode = self._picture.mode
        if mode.startswith(("I", "F")):
            return to_uint8(np.asarray(self._picture))
        self._picture.load()
        self._picture.info.pop("transparency", None)  # it would turn grey into colour with an alpha channel
        return np.asarray(
            self._picture.convert("L" if mode in _GREY_MODES and self.num_frames == 1 else "RGB")
        )

    def _find_pages(self) -> list[int]:
        """A TIFF's pages of other sizes are thumbnails, an MPO's are previews."""
        if self.kind != "TIFF":
            num_frames = 1 if self.kind == "MPO" else int(getattr(self._picture, "n_frames", 1))
            if num_frames > MAX_FRAMES:
                raise RejectedError(Reason.TOO_LARGE, f"claims {num_frames} frames")
            return list(range(num_frames))
        pages = []
        for page in range(MAX_FRAMES):
            try:
                self._picture.seek(page)
            except EOFError:
                break
            self._check_size()
            if self._picture.size == self._stored_size:
                pages.append(page)
        self._reopen()
        return pages

    def _check_size(self) -> None:
        columns, rows = self._picture.size
        _check_size(rows, columns)
        tags = getattr(self._picture, "tag_v2", {})
        _check_size(*(int(tags.get(tag, 0)) for tag in _TIFF_TILE))


def _orientation(picture: Image.Image) -> int:
    """As EXIF has it, where no decoder turns the picture by itself, as those of TIFF and JPEG XL do."""
    if picture.format in ("TIFF", "JXL") or "exif" not in picture.info:
        return 1
    return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
