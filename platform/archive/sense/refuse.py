"""Objects that are no ultrasound pictures: other modalities, documents, and pictures of documents.

A secondary capture that calls itself ultrasound is taken where it declares ultrasound regions, or where its
Conversion Type says that a scanner's video was recorded (DV, DI) or a film digitised (DF): so older machines
were archived. One made at a workstation (WSD, DRW, SYN), scanned from paper (SD, SI) or of unknown making
may as well be a report page, and is refused. An ultrasound object is refused as a report page where it
declares no regions and its Image Type or its series is called a report or a worksheet.
"""

from __future__ import annotations

import re

import pydicom

from sonoloop.platform.archive.sense.elements import number, text
from sonoloop.platform.archive.sense.regions import read_regions
from sonoloop.platform.errors import Reason, RejectedError

ULTRASOUND = ("US", "IVUS")
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_ULTRASOUND_CLASSES = tuple(_STORAGE + number for number in ("3", "3.1", "6", "6.1", "6.2"))
"""Ultrasound and its multi-frame, both with their retired forms, and Enhanced US Volume."""
_OTHER_CLASSES: tuple[tuple[str, Reason, str], ...] = (
    ("1.2.840.10008.1.3.10", Reason.DOCUMENT, "a DICOMDIR"),
    (_STORAGE + "9.", Reason.NOT_ULTRASOUND, "a waveform"),
    (_STORAGE + "11.", Reason.DOCUMENT, "a presentation state"),
    (_STORAGE + "66.4", Reason.NOT_ULTRASOUND, "a segmentation"),
    (_STORAGE + "66", Reason.NOT_ULTRASOUND, "raw data or a registration"),
    (_STORAGE + "88.59", Reason.DOCUMENT, "a key object selection"),
    (_STORAGE + "88.", Reason.DOCUMENT, "a structured report"),
    (_STORAGE + "104.", Reason.DOCUMENT, "an encapsulated document (PDF, CDA or a model)"),
)
"""SOP classes by the start of their UID, the longer ones first. Source: DICOM PS3.4 B.5, PS3.6 A."""
_OTHER_MODALITIES = {
    "another imaging modality": (
        *("BMD", "CR", "CT", "DX", "ES", "GM", "IO", "MG", "MR", "NM", "OP", "OPT", "PT", "PX", "RF", "SM"),
        *("XA", "XC"),
    ),
    "a modality of waveforms": ("AU", "ECG", "EPS", "HD", "RESP"),
    "a modality of documents": ("DOC", "KO", "PLAN", "PR", "SR"),
    '"other"': ("OT",),
    '"secondary capture"': ("SC",),
}
"""Source: DICOM PS3.3 C.7.3.1.1.1."""
_SECONDARY_CAPTURE = _STORAGE + "7"
_RECORDED = ("DV", "DI", "DF")
"""Conversion Type (0008,0064). Source: DICOM PS3.3 C.8.6.1."""
_REPORT_PAGE = re.compile(
    r"\b(?:report|worksheet|work ?sheet|befund|bericht|arbeitsblatt|rapport|informe)s?\b|报告"
)


def refuse_other(dataset: pydicom.Dataset) -> None:
    """Refuse what is no ultrasound picture, by its SOP class, its modality and how it was made.

    Args:
        dataset: The header; pixels are not looked at.

    Raises:
        RejectedError: ``document`` or ``not-ultrasound``; the detail says which kind, and quotes nothing.
    """
    sop_class = text(dataset, "SOPClassUID") or text(
        getattr(dataset, "file_meta", pydicom.Dataset()), "MediaStorageSOPClassUID"
    )
    for start, reason, what in _OTHER_CLASSES:
        if sop_class.startswith(start):
            raise RejectedError(reason, f"expected an ultrasound picture, found {what}")
    modality = text(dataset, "Modality").upper()
    if modality not in ULTRASOUND and (modality or sop_class not in _ULTRASOUND_CLASSES):
        named = (what for what, modalities in _OTHER_MODALITIES.items() if modality in modalities)
        what = next(named, "an unknown one or none")
        raise RejectedError(Reason.NOT_ULTRASOUND, f"expected modality US, found {what}")
    _refuse_page(dataset, sop_class)


def _refuse_page(dataset: pydicom.Dataset, sop_class: str) -> None:
    """Refuse a picture of a document."""
    rows, columns = (int(number(dataset, name) or 0) for name in ("Rows", "Columns"))
    if any(region.kind in ("2d", "m-mode", "spectral") for region in read_regions(dataset, rows, columns)):
        return
    is_capture = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(_SECONDARY_CAPTURE + ".")
    if is_capture and text(dataset, "ConversionType").upper() not in _RECORDED:
        raise RejectedError(
            Reason.DOCUMENT, "a secondary capture without ultrasound regions, not recorded from video or film"
        )
    names = text(dataset, "ImageType", "SeriesDescription").casefold().replace("_", " ")
    if _REPORT_PAGE.search(names):
        raise RejectedError(Reason.DOCUMENT, "no ultrasound regions, and called a report or a worksheet")
