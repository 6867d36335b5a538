"""Ultrasound DICOM made for tests, and the real files that the pydicom wheel ships."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

ROWS, COLUMNS = 96, 128
REGION = (16, 24, 111, 89)
"""left, top, right, bottom of the declared region; the name is burned in above it."""
NAME, PATIENT_ID, STUDY = "ZIMMERMANN^ADELHEID", "PID-471108", "1.2.826.0.1.3680043.8.498.77001"
IDENTIFIERS = (
    "ZIMMERMANN",
    "Zimmermann",
    "ADELHEID",
    PATIENT_ID,
    STUDY,
    "19490517",
    "ACC-90210",
    "Hospital Nowhere",
)
"""Every identifier that `ultrasound` writes into the header of its first study."""


def real_file(name: str) -> bytes:
    """A file of the pydicom wheel."""
    path = get_testdata_file(name, download=False)
    assert path is not None, name
    return Path(str(path)).read_bytes()


def as_ultrasound(name: str) -> bytes:
    """A file of the pydicom wheel that shows something else, declared an ultrasound."""
    dataset = pydicom.dcmread(io.BytesIO(real_file(name)))
    dataset.Modality, dataset.SOPClassUID = "US", UltrasoundImageStorage
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def speckle(seed: int = 0, *, frames: int = 1, channels: int = 1) -> NDArray[np.uint8]:
    """Noise ``(rows, columns[, 3])`` or ``(frames, rows, columns[, 3])`` with a name burned in at the top."""
    pixels = np.random.default_rng(seed).integers(1, 256, (frames, ROWS, COLUMNS, channels), dtype=np.uint8)
    pixels[:, :20] = 0  # on noise of full range nobody, and no machine, could read the name
    picture = Image.fromarray(pixels[0, :, :, 0])
    ImageDraw.Draw(picture).text((2, 2), "ZIMMERMANN A", fill=255)
    pixels[:, :20] = np.asarray(picture)[None, :20, :, None]
    pixels = pixels[..., 0] if channels == 1 else pixels
    return pixels[0] if frames == 1 else pixels


def ultrasound(
    pixels: NDArray[Any],
    *,
    frames: int = 1,
    regions: tuple[tuple[int, int, int, int], ...] = (REGION,),
    instance: str = "1",
    study: str = STUDY,
    photometric: str | None = None,
    **header: Any,
) -> bytes:
    """A DICOM object over ``pixels``; ``header`` replaces elements by keyword, ``None`` removes one."""
    colour = pixels.shape[-1] == 3
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    dataset.SOPClassUID = UltrasoundImageStorage if frames == 1 else UltrasoundMultiFrameImageStorage
    dataset.SOPInstanceUID = f"{study}.1.{instance}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.1"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, PATIENT_ID, "19490517"
    dataset.AccessionNumber, dataset.InstitutionName = "ACC-90210", "Hospital Nowhere"
    dataset.Modality, dataset.BodyPartExamined = "US", "LIVER"
    dataset.Manufacturer, dataset.ManufacturerModelName = "Maker", "Model 1"
    dataset.StudyDescription = "Zimmermann, follow-up"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 3 if colour else 1
    dataset.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    if colour:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    if regions:
        dataset.SequenceOfUltrasoundRegions = [_region(region) for region in regions]
    dataset.PixelData = pixels.tobytes()
    for name, value in header.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def encapsulated(
    frames: list[bytes],
    syntax: str,
    pixels: NDArray[Any],
    *,
    fragments: int = 1,
    basic_table: bool = False,
    extended_table: bool = False,
    **header: Any,
) -> bytes:
    """A DICOM object over compressed ``frames``; ``pixels`` is one frame, for its shape and depth.

    Without a table its Basic Offset Table is empty. ``header`` as for `ultrasound`.
    """
    value, tables = encapsulate(frames, fragments_per_frame=fragments, has_bot=basic_table), {}
    if extended_table:
        value, *rest = encapsulate_extended(frames)
        tables = dict(zip(("ExtendedOffsetTable", "ExtendedOffsetTableLengths"), rest, strict=True))
    header = {"NumberOfFrames": len(frames), **tables, **header}
    native = pydicom.dcmread(io.BytesIO(ultrasound(pixels, **{**header, "PixelData": None})))
    native.PixelData = value
    native["PixelData"].VR, native["PixelData"].is_undefined_length = "OB", True
    native.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    # forced: pydicom does not know every syntax
    pydicom.dcmwrite(buffer, native, implicit_vr=False, little_endian=True, force_encoding=True)
    return buffer.getvalue()


def jpeg(pixels: NDArray[Any], **options: Any) -> bytes:
    """One frame as baseline JPEG; Pillow's ``options``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


def picture(seed: int = 0, kind: str = "PNG") -> bytes:
    """A plain image file."""
    buffer = io.BytesIO()
    Image.fromarray(speckle(seed)).save(buffer, kind)
    return buffer.getvalue()


def _region(bounds: tuple[int, int, int, int]) -> Dataset:
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = bounds[:2]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = bounds[2:]
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    return item
