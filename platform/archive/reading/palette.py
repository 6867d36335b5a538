"""Palette colour lookup tables, plain and segmented.

pydicom looks pixels up too, but takes a big-endian table for little-endian, and expands a segmented one
whatever it comes to: 1 MB of segments may ask for ten thousand million entries.

Source: DICOM PS3.3 C.7.6.3.1.5-6 and C.7.9.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut
from pydicom.uid import ExplicitVRLittleEndian

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.errors import Reason, RejectedError

MAX_ENTRIES = 2**16
_COLOURS = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR = 0, 1


def read_palette(dataset: pydicom.Dataset, *, little_endian: bool) -> tuple[int, Frame]:
    """The pixel value of the first entry, and all entries ``(n, 3)``, uint8.

    Raises:
        RejectedError: `UNREADABLE`, a table of another form; `TOO_LARGE`, its segments are too long.
    """
    num_entries, first, _ = (int(number) for number in dataset.RedPaletteColorLookupTableDescriptor)
    num_entries = num_entries % MAX_ENTRIES or MAX_ENTRIES  # of 16 bits that may have been read as signed
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        table = _segmented(dataset, first, num_entries, little_endian)
    else:
        parts = [dataset[f"{colour}PaletteColorLookupTableData"].value for colour in _COLOURS]
        table = np.stack([_entries(part, num_entries, little_endian) for part in parts], axis=-1)
    if table.dtype != np.uint8 and table.max() > 255:  # 8-bit values in 16-bit entries are common
        table = table >> 8
    return first, table.astype(np.uint8)


def _entries(data: bytes, num_entries: int, little_endian: bool) -> NDArray[Any]:
    """Entries of 16 bits, or of 8 where the data are too short for that."""
    words = _words(data, little_endian)
    entries = words if len(words) >= num_entries else words.view(np.uint8)
    if len(entries) < num_entries:
        raise RejectedError(Reason.UNREADABLE, f"expected a palette of {num_entries}, found {len(entries)}")
    return entries[:num_entries]


def _words(data: bytes, little_endian: bool) -> NDArray[np.uint16]:
    return np.frombuffer(data, "<u2" if little_endian else ">u2").astype("<u2")


def _segmented(dataset: pydicom.Dataset, first: int, num_entries: int, little_endian: bool) -> NDArray[Any]:
    palette = pydicom.Dataset()
    palette.file_meta = pydicom.dataset.FileMetaDataset()
    palette.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    palette.PhotometricInterpretation = "PALETTE COLOR"
    for colour in _COLOURS:
        name = f"{colour}PaletteColorLookupTable"
        words = _words(dataset[f"Segmented{name}Data"].value, little_endian)
        _refuse_long(words)
        setattr(palette, f"{name}Descriptor", dataset[f"{name}Descriptor"].value)
        setattr(palette, f"Segmented{name}Data", words.tobytes())
    return np.asarray(apply_color_lut(np.arange(first, first + num_entries), palette))


def _refuse_long(words: NDArray[np.uint16]) -> None:
    """Count what the segments come to; those that repeat others (kind 2) are refused as a trap."""
    place, total = 0, 0
    while place + 1 < len(words) and total <= MAX_ENTRIES:
        kind, length = int(words[place]), int(words[place + 1])
        if kind not in (_DISCRETE, _LINEAR):
            raise RejectedError(Reason.UNREADABLE, "expected discrete or linear segments in the palette")
        total += length
        place += 2 + (length if kind == _DISCRETE else 1)
    if total > MAX_ENTRIES:
        raise RejectedError(Reason.TOO_LARGE, f"a palette of more than {MAX_ENTRIES} entries")
