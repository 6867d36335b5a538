"""DICOM objects: the header is read, and each frame by itself when it is asked for.

Opening reads up to PixelData, and beyond it only the headers of compressed items. Elements of more than 1 MB
(raw volumes that some scanners keep in private elements) are skipped and missing from the dataset.
"""

from __future__ import annotations

import hashlib

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.deflated import inflate
from sonoloop.platform.archive.reading.dicom_frames import DicomFrames, open_frames
from sonoloop.platform.archive.reading.pixels import MAX_FRAMES, quiet
from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.archive.sense.facts import facts_of
from sonoloop.platform.archive.sense.refuse import refuse_other
from sonoloop.platform.archive.sense.regions import read_regions
from sonoloop.platform.errors import Reason, RejectedError

MAX_HEADER_BYTES = 16 * 2**20
MAX_ELEMENT_BYTES = 2**20
_DIGESTED = 64 * 1024
_OFFSET_TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


def open_dicom(file: RangedFile, name: str) -> Instance:
    """Read a DICOM header; raises `RejectedError`."""
    try:
        with quiet():
            body, dataset = _read_header(file)
            return _instance(body, dataset, name)
    except RejectedError:
        raise
    except (
        Exception
    ) as err:  # the parser meets arbitrary bytes; its message may quote them, the type does not
        raise RejectedError(
            Reason.UNREADABLE, f"the DICOM header cannot be read ({type(err).__name__})"
        ) from None


def _read_header(file: RangedFile) -> tuple[RangedFile, pydicom.FileDataset]:
    """The dataset up to PixelData, and the file that stands there."""
    meta = _file_meta(file)
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise RejectedError(
            Reason.DOCUMENT, "a DICOMDIR; the files that it lists are indexed as objects of their own"
        )
    deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if deflated:
        file = inflate(file, file.tell())
    file.seek(0)
    file.limit_reading(MAX_HEADER_BYTES)
    dataset = pydicom.dcmread(
        file, stop_before_pixels=True, defer_size=MAX_ELEMENT_BYTES, force=deflated or not meta
    )
    file.limit_reading(None)
    if deflated:
        dataset.file_meta = meta
    for element in list(dataset.values()):
        if isinstance(element, RawDataElement) and element.value is None and element.length:
            del dataset[element.tag]  # skipped for its size
    return file, dataset


def _file_meta(file: RangedFile) -> pydicom.dataset.FileMetaDataset:
    """The elements of group 2, empty where the object has none; leaves the file behind them."""
    file.seek(0)
    file.limit_reading(MAX_ELEMENT_BYTES)
    if read_preamble(file, force=True) is None:
        file.seek(0)
    elements = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_file_meta)
    file.limit_reading(None)
    return pydicom.dataset.FileMetaDataset(elements)


def _behind_file_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag.group != 2)


def _instance(file: RangedFile, dataset: pydicom.FileDataset, name: str) -> Instance:
    if not len(dataset):
        raise RejectedError(Reason.TRUNCATED, "the object is cut off; nothing of it can be read")
    refuse_other(dataset)
    claimed = int(dataset.get("NumberOfFrames") or 1)
    if claimed > MAX_FRAMES:
        raise RejectedError(Reason.TOO_LARGE, f"claims {claimed} frames")
    frames = open_frames(file, dataset, claimed)
    for table in _OFFSET_TABLES:
        if table in dataset:
            del dataset[table]
    instance_uid = str(dataset.get("SOPInstanceUID") or _content_id(file, frames))
    study_id = str(dataset.get("StudyInstanceUID") or instance_uid)
    return Instance(
        study_id=study_id,
        series_id=str(dataset.get("SeriesInstanceUID") or study_id),
        patient_id=str(dataset.get("PatientID") or study_id),
        instance_uid=instance_uid,
        name=name,
        modality=str(dataset.get("Modality") or "US"),
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        num_frames=frames.num_frames,
        rows=frames.rows,
        columns=frames.columns,
        regions=read_regions(dataset, frames.rows, frames.columns),
        facts=facts_of(dataset),
        frame=frames.frame,
        dataset=dataset,
    )


def _content_id(file: RangedFile, frames: DicomFrames) -> str:
    """Stands for identifiers that the header lacks: without it all such objects were one.

    A hash of the size, of the header (up to 64 kB) and of 64 kB each at the start, the middle and the end of
    the pixels; the whole object is not read for it.
    """
    digest = hashlib.sha256(file.size.to_bytes(8, "big"))
    for start in (0, frames.start, (frames.start + file.size) // 2, file.size - _DIGESTED):
        digest.update(file.read_at(max(start, 0), _DIGESTED))
    return digest.hexdigest()
