"""One object of the archive, opened: its header, its regions and a way to decode one frame.

Frames are uint8 arrays ``(rows, columns)`` or ``(rows, columns, 3)`` RGB; ``frame_index`` counts from 0.
Decoding is pydicom's and Pillow's; identifiers live in this object only and leave it as keyed hashes.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, pixel_array

from sonoloop.platform.archive.codestream import codestream_size
from sonoloop.platform.archive.organs import organ_from_text
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.lexicon import Organ

Frame = NDArray[np.uint8]

MAX_FRAME_PIXELS = 64_000_000
"""A frame that claims more pixels is refused before anything is allocated."""
MAX_FRAMES = 20_000
PICTURE_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP")
"""Pillow knows more, some of which start other programs (EPS)."""


@dataclass(frozen=True)
class Region:
    """One rectangle of ultrasound data; bounds in pixels, both ends inside, from 0.

    Source: DICOM PS3.3 C.8.5.5, US Region Calibration Module.
    """

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Instance:
    """A readable ultrasound object. ``regions`` is empty where the header declares none."""

    study_id: str = field(repr=False)
    patient_id: str = field(repr=False)
    instance_uid: str = field(repr=False)
    modality: str
    transfer_syntax: str
    num_frames: int
    rows: int
    columns: int
    regions: tuple[Region, ...]
    organ_hint: Organ | None
    scanner: str | None
    frame: Callable[[int], Frame] = field(repr=False)


def open_instance(data: bytes, *, name: str) -> Instance:
    """Read an object's header and prepare to decode its frames.

    Args:
        data: The whole object.
        name: Its key below the archive's root; names case and patient of a plain image.

    Raises:
        RejectedError: empty, no image, truncated, not ultrasound, or larger than anything plausible.
    """
    if not data:
        raise RejectedError(Reason.EMPTY_OBJECT, "expected an image, found 0 bytes")
    if data[128:132] == b"DICM" or data[:2] in (b"\x08\x00", b"\x00\x08", b"\x02\x00"):
        return _open_dicom(data)
    return _open_picture(data, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the readers: pydicom and Pillow quote header values in warnings and in log lines."""
    reader = logging.getLogger("pydicom")
    level = reader.level
    reader.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        reader.setLevel(level)


def _open_dicom(data: bytes) -> Instance:
    try:
        with _quiet():
            dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
            return _from_dataset(dataset, content=hashlib.sha256(data).hexdigest())
    except RejectedError:
        raise
    except (
        Exception
    ) as err:  # the parser meets arbitrary bytes; its message may quote them, the type does not
        raise RejectedError(
            Reason.UNREADABLE, f"the DICOM header cannot be read ({type(err).__name__})"
        ) from None


def _from_dataset(dataset: pydicom.Dataset, *, content: str) -> Instance:
    """``content`` stands for identifiers that the header lacks: without it all such objects were one."""
    if not len(dataset):
        raise RejectedError(Reason.TRUNCATED, "the object is cut off; nothing of it can be read")
    modality = str(dataset.get("Modality", ""))
    if modality not in ("US", "IVUS"):
        raise RejectedError(Reason.NOT_ULTRASOUND, "expected modality US, found another or none")
    if "PixelData" not in dataset:
        raise RejectedError(Reason.NO_PIXELS, "the object has no PixelData; it may be cut off")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    if rows * columns == 0:
        raise RejectedError(Reason.NO_PIXELS, f"claims {rows} x {columns} pixels")
    if rows * columns > MAX_FRAME_PIXELS or not 1 <= num_frames <= MAX_FRAMES:
        raise RejectedError(Reason.TOO_LARGE, f"claims {rows} x {columns} pixels, {num_frames} frames")
    names = (
        str(dataset.get(key, "")) for key in ("BodyPartExamined", "StudyDescription", "SeriesDescription")
    )
    maker = " ".join(str(dataset.get(key, "")) for key in ("Manufacturer", "ManufacturerModelName")).strip()
    instance_uid = str(dataset.get("SOPInstanceUID") or content)
    study_id = str(dataset.get("StudyInstanceUID") or instance_uid)
    return Instance(
        study_id=study_id,
        patient_id=str(dataset.get("PatientID") or study_id),
        instance_uid=instance_uid,
        modality=modality,
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        num_frames=num_frames,
        rows=rows,
        columns=columns,
        regions=_regions(dataset, rows, columns),
        organ_hint=organ_from_text(" ".join(names)),
        scanner=maker or None,
        frame=lambda index: _dicom_frame(dataset, index),
    )


def _regions(dataset: pydicom.Dataset, rows: int, columns: int) -> tuple[Region, ...]:
    found = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        left, right = sorted((int(item.RegionLocationMinX0), int(item.RegionLocationMaxX1)))
        top, bottom = sorted((int(item.RegionLocationMinY0), int(item.RegionLocationMaxY1)))
        region = Region(max(left, 0), max(top, 0), min(right, columns - 1), min(bottom, rows - 1))
        if region.left < region.right and region.top < region.bottom:
            found.append(region)
    return tuple(found)


def _dicom_frame(dataset: pydicom.Dataset, index: int) -> Frame:
    try:
        with _quiet():
            _refuse_other_size(dataset, index)
            pixels = pixel_array(dataset, index=index)
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                pixels = apply_color_lut(pixels, dataset)
            eight = to_uint8(pixels)
    except RejectedError:
        raise
    except Exception as err:  # every codec raises its own; the type says enough and quotes nothing
        raise RejectedError(
            Reason.TRUNCATED, f"frame {index} cannot be decoded ({type(err).__name__})"
        ) from None
    return 255 - eight if dataset.PhotometricInterpretation == "MONOCHROME1" else eight


def _refuse_other_size(dataset: pydicom.Dataset, index: int) -> None:
    """Refuse a compressed frame that claims another size than the header, before it is decoded."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    frame = get_frame(dataset.PixelData, index, extended_offsets=offsets, number_of_frames=num_frames)
    found, expected = codestream_size(frame), (dataset.Rows, dataset.Columns)
    if found is not None and found != expected:
        raise RejectedError(
            Reason.UNREADABLE, f"frame {index} is {found} in size where the header says {expected}"
        )


def _open_picture(data: bytes, name: str) -> Instance:
    try:
        with _quiet():
            picture = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
    except Exception as err:  # arbitrary bytes, as above
        raise RejectedError(
            Reason.NOT_AN_IMAGE, f"expected DICOM or a picture ({type(err).__name__})"
        ) from None
    width, height = picture.size
    if width * height > MAX_FRAME_PIXELS:
        raise RejectedError(Reason.TOO_LARGE, f"claims {height} x {width} pixels")
    case_name = name.rpartition("/")[0] or name
    return Instance(
        study_id=case_name,
        patient_id=case_name,
        instance_uid=name,
        modality="US",
        transfer_syntax=f"{picture.format}",
        num_frames=1,
        rows=height,
        columns=width,
        regions=(),
        organ_hint=organ_from_text(case_name),
        scanner=None,
        frame=lambda _: _picture_frame(picture),
    )


def _picture_frame(picture: Image.Image) -> Frame:
    try:
        with _quiet():
            if picture.mode.startswith(("I", "F")):
                return to_uint8(np.asarray(picture))
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except Exception as err:  # a broken chunk raises SyntaxError, others OSError, ValueError, struct.error
        raise RejectedError(
            Reason.TRUNCATED, f"the picture cannot be decoded ({type(err).__name__})"
        ) from None


def to_uint8(pixels: NDArray[np.generic]) -> Frame:
    """Bring pixels of any depth to uint8; more than 8 bits are scaled by the frame's own range, NaN is 0.

    Args:
        pixels: ``(rows, columns)`` or ``(rows, columns, 3)``, any integer or float dtype.
    """
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    values = pixels.astype(np.float32)
    values[~np.isfinite(values)] = 0
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) * (255.0 / max(high - low, 1e-6)), dtype=np.uint8)
