"""A rendered case as DICOM: header, banner with the patient's name in the pixels, regions, pixel data.

Source: DICOM PS3.3 A.6 and A.7 (ultrasound and multi-frame ultrasound IODs), C.8.5.5 (region calibration).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import date

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from sonoloop.platform.phantoms.case import PhantomCase
from sonoloop.platform.phantoms.encode import Frame, set_pixels
from sonoloop.platform.phantoms.patients import Patient
from sonoloop.platform.phantoms.render import RenderedFrame
from sonoloop.platform.phantoms.view import BANNER_HEIGHT, FRAME_WIDTH

FRAME_TIME_MS = 50.0
IMPLEMENTATION_UID = "2.25.302517862935427170349158203371206573641"
"""Names this writer in file meta information."""
_FONT_PX = 12


@dataclass(frozen=True)
class StudyHeader:
    """What all instances of a study share."""

    patient: Patient
    study_uid: str
    series_uid: str
    study_date: date
    study_id: str


def write_instance(
    case: PhantomCase,
    header: StudyHeader,
    sop_uid: str,
    number: int,
    frames: list[RenderedFrame],
    syntax: UID,
) -> bytes:
    """One DICOM file; several frames make it an Ultrasound Multi-frame Image.

    Args:
        case: Source of organ, machine and view.
        header: Patient and study.
        sop_uid: SOP Instance UID.
        number: Instance number, from 1.
        frames: Rendered frames of the case, at least one.
        syntax: One of `encode.SYNTAXES`.
    """
    dataset = Dataset()
    _describe(dataset, case, header)
    is_loop = len(frames) > 1
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage if is_loop else UltrasoundImageStorage
    dataset.SOPInstanceUID, dataset.InstanceNumber = sop_uid, number
    if is_loop:
        dataset.NumberOfFrames = len(frames)
        dataset.FrameTime = FRAME_TIME_MS
        dataset.FrameIncrementPointer = 0x00181063
        dataset.CineRate = round(1000 / FRAME_TIME_MS)
    dataset.SequenceOfUltrasoundRegions = [_region(case, frames[0])]
    text = banner_text(case, header.patient)
    set_pixels(dataset, [_with_banner(frame.pixels, text) for frame in frames], syntax)
    return _serialise(dataset, syntax)


def banner_text(case: PhantomCase, patient: Patient) -> str:
    """The line burned into every frame."""
    name = patient.name.replace("^", ", ")
    machine = f"{case.acquisition.machine.manufacturer} {case.acquisition.machine.model}"
    return f"{name}  {patient.patient_id}  *{patient.birth_date:%d.%m.%Y}  {machine}"


def _describe(dataset: Dataset, case: PhantomCase, header: StudyHeader) -> None:
    patient, machine = header.patient, case.acquisition.machine
    rng = np.random.default_rng([case.detail_seed, 12])
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientName, dataset.PatientID = patient.name, patient.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = f"{patient.birth_date:%Y%m%d}", patient.sex
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = header.study_uid, header.series_uid
    dataset.StudyDate = dataset.ContentDate = f"{header.study_date:%Y%m%d}"
    dataset.StudyTime = dataset.ContentTime = f"{rng.integers(7, 18):02d}{rng.integers(60):02d}00"
    dataset.StudyID, dataset.AccessionNumber, dataset.SeriesNumber = header.study_id, f"A{header.study_id}", 1
    dataset.ReferringPhysicianName = ""
    dataset.Modality = "US"
    dataset.BodyPartExamined = case.organ.upper()
    dataset.StudyDescription = f"US {case.organ}"
    dataset.Manufacturer, dataset.ManufacturerModelName = machine.manufacturer, machine.model
    is_curved = case.acquisition.view.radius_mm > 0
    dataset.TransducerData = ["C5-1" if is_curved else "L12-4", "", ""]
    dataset.TransducerType = "CURVED LINEAR" if is_curved else "LINEAR"
    dataset.DepthOfScanField = round(case.acquisition.view.depth_mm)
    claim = rng.random()  # what machines claim about burned-in text is no proof of anything
    if claim < 0.7:
        dataset.BurnedInAnnotation = "YES" if claim < 0.55 else "NO"


def _region(case: PhantomCase, frame: RenderedFrame) -> Dataset:
    view, box = case.acquisition.view, frame.region
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = box.left, box.top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = box.right, box.bottom
    region.ReferencePixelX0, region.ReferencePixelY0 = view.width // 2, 0
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX = region.PhysicalDeltaY = view.pixel_mm / 10
    region.TransducerFrequency = round(case.acquisition.centre_mhz * 1000)  # kHz
    return region


def _with_banner(pixels: Frame, text: str) -> Frame:
    """The frame with light text on a dark strip above the picture."""
    strip = Image.new("L", (FRAME_WIDTH, BANNER_HEIGHT), 24)
    ImageDraw.Draw(strip).text((6, 4), text, fill=230, font=ImageFont.load_default(_FONT_PX))
    banner = np.asarray(strip)
    framed = pixels.copy()
    framed[:BANNER_HEIGHT] = banner if pixels.ndim == 2 else banner[..., None]
    return framed


def _serialise(dataset: Dataset, syntax: UID) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
