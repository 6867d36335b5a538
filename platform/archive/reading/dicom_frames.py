"""The frames of one DICOM object: found once, each read and decoded by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pydicom
from pydicom import uid

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.reading.decode import (
    STILL_SYNTAXES,
    PixelFormat,
    decode_compressed,
    decode_native,
    pixel_format,
)
from sonoloop.platform.archive.reading.display import Display
from sonoloop.platform.archive.reading.pixels import MAX_FRAMES, decoding
from sonoloop.platform.archive.reading.places import (
    PixelElement,
    Span,
    encapsulated_frames,
    fragments,
    native_frames,
    pixel_element,
    read_encapsulated,
)
from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.archive.reading.video import open_stream
from sonoloop.platform.errors import Reason, RejectedError

_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)


@dataclass(frozen=True)
class DicomFrames:
    """What PixelData holds: ``frame`` decodes one, counted from 0, and raises `RejectedError`.

    ``start`` is where the pixels start in the file.
    """

    num_frames: int
    rows: int
    columns: int
    start: int
    frame: Callable[[int], Frame]


def open_frames(file: RangedFile, dataset: pydicom.Dataset, claimed: int) -> DicomFrames:
    """Find the frames; ``file`` stands at PixelData, ``claimed`` is what ``NumberOfFrames`` says.

    Raises:
        RejectedError: no pixels, none of them whole, too many or too large, no decoder.
    """
    syntax = _transfer_syntax(dataset)
    element = pixel_element(file, little_endian=syntax != uid.ExplicitVRBigEndian)
    if syntax in uid.MPEGTransferSyntaxes:
        return _video(file, element, dataset, syntax)
    if syntax not in (*_NATIVE, *STILL_SYNTAXES):
        raise RejectedError(Reason.UNREADABLE, f"no maintained decoder for transfer syntax {syntax.name}")
    form = pixel_format(dataset, syntax, pixel_vr=element.vr)
    if syntax in _NATIVE:
        form = _as_stored(form, element, claimed)
        spans = native_frames(file, element, form.frame_bytes)
    else:
        spans = encapsulated_frames(file, element, dataset, claimed)
    if not spans:
        raise RejectedError(Reason.TRUNCATED, "the object holds no whole frame")
    if len(spans) > MAX_FRAMES:
        raise RejectedError(Reason.TOO_LARGE, f"holds {len(spans)} frames")
    display = Display(dataset, little_endian=syntax != uid.ExplicitVRBigEndian)
    source = _Stills(file, form, spans, display)
    return DicomFrames(len(spans), form.rows, form.columns, element.start, source.frame)


class _Stills:
    """Frames that are decoded each by itself."""

    def __init__(self, file: RangedFile, form: PixelFormat, spans: list[Span], display: Display) -> None:
        self._file, self._form, self._spans, self._display = file, form, spans, display

    def frame(self, index: int) -> Frame:
        with decoding(index, len(self._spans)):
            span, form = self._spans[index], self._form
            if form.syntax in _NATIVE:
                return self._display(decode_native(self._native_bytes(span), form), form.photometric)
            return self._display(*decode_compressed(read_encapsulated(self._file, span), form))

    def _native_bytes(self, span: Span) -> bytes:
        if not self._form.swapped:
            return self._file.read_at(span[0], span[1] - span[0])
        start = self._spans[0][0]  # bytes lie swapped in pairs, counted from the first frame's start
        low = span[0] - (span[0] - start) % 2
        pairs = self._file.read_at(low, span[1] - low + (span[1] - low) % 2)
        return np.frombuffer(pairs, np.uint16).byteswap().tobytes()[span[0] - low : span[1] - low]


def _transfer_syntax(dataset: pydicom.Dataset) -> uid.UID:
    """As the file says, or, where it says nothing, as pydicom had to read it."""
    if syntax := dataset.file_meta.get("TransferSyntaxUID"):
        return uid.UID(str(syntax))
    implicit, little_endian = dataset.original_encoding
    if not little_endian:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian


def _as_stored(form: PixelFormat, element: PixelElement, claimed: int) -> PixelFormat:
    """Three bytes a pixel are not 4:2:2, whatever the header says; some writers keep a lossy file's label."""
    whole = form.rows * form.columns * 3 * claimed
    if form.photometric == "YBR_FULL_422" and whole <= element.length <= whole + 1:
        return replace(form, photometric="YBR_FULL")
    return form


def _video(file: RangedFile, element: PixelElement, dataset: pydicom.Dataset, syntax: uid.UID) -> DicomFrames:
    parts = fragments(file, element)
    video = open_stream(lambda: file.joined(parts), syntax, int(dataset.Rows), int(dataset.Columns))
    return DicomFrames(video.num_frames, video.rows, video.columns, element.start, video.frame)
