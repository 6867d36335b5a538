"""DICOM objects: header and frames. Decoding is pydicom's, through gdcm."""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO

import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, pixel_array

from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.reading.codestream import codestream_size
from sonoloop.platform.archive.reading.pixels import MAX_FRAME_PIXELS, MAX_FRAMES, quiet, to_uint8
from sonoloop.platform.archive.sense.facts import facts_of
from sonoloop.platform.archive.sense.regions import read_regions
from sonoloop.platform.errors import Reason, RejectedError


def open_dicom(file: BinaryIO, name: str) -> Instance:
    """Read a DICOM header; raises `RejectedError`."""
    data = file.read()
    try:
        with quiet():
            dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
            return _from_dataset(dataset, name=name, content=hashlib.sha256(data).hexdigest())
    except RejectedError:
        raise
    except (
        Exception
    ) as err:  # the parser meets arbitrary bytes; its message may quote them, the type does not
        raise RejectedError(
            Reason.UNREADABLE, f"the DICOM header cannot be read ({type(err).__name__})"
        ) from None


def _from_dataset(dataset: pydicom.Dataset, *, name: str, content: str) -> Instance:
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
    instance_uid = str(dataset.get("SOPInstanceUID") or content)
    study_id = str(dataset.get("StudyInstanceUID") or instance_uid)
    return Instance(
        study_id=study_id,
        series_id=str(dataset.get("SeriesInstanceUID") or study_id),
        patient_id=str(dataset.get("PatientID") or study_id),
        instance_uid=instance_uid,
        name=name,
        modality=modality,
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        num_frames=num_frames,
        rows=rows,
        columns=columns,
        regions=read_regions(dataset, rows, columns),
        facts=facts_of(dataset),
        frame=lambda index: _dicom_frame(dataset, index),
        dataset=dataset,
    )


def _dicom_frame(dataset: pydicom.Dataset, index: int) -> Frame:
    try:
        with quiet():
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
