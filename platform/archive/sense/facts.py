"""What the header says about an examination, in the lexicon's words.

Descriptions are matched against known words and never kept: a fact is a word of ours, a number, or a
device's name that `devices` has cleaned.
"""

from __future__ import annotations

from dataclasses import dataclass

import pydicom
from pydicom.datadict import private_dictionary_description
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag

from sonoloop.platform.archive.sense.devices import Vendor, scanner_of, transducer_of, vendor_of
from sonoloop.platform.archive.sense.elements import items, number, text, values
from sonoloop.platform.archive.sense.modes import Mode, modes_of
from sonoloop.platform.archive.sense.organs import (
    Laterality,
    agreed,
    organs_in_text,
    organs_of_codes,
    side_in_text,
    side_of_codes,
)
from sonoloop.platform.archive.sense.regions import Region, read_regions
from sonoloop.platform.lexicon import Organ

_CODED_PLACES = ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence", "ViewCodeSequence")
_OF_STUDY = ("StudyDescription", "RequestedProcedureDescription", "PerformedProcedureStepDescription")
_OF_SERIES = ("SeriesDescription", "ProtocolName")
_OF_IMAGE = ("BodyPartExamined", "ViewName")
_PRESETS: dict[str, Organ] = {
    "BREAST": "breast",
    "THYROID": "thyroid",
    "RENAL": "kidney",
    "GYNECOLOGY": "ovary",
    "TTE": "heart",
    "TEE": "heart",
    "INTRACARDIAC": "heart",
    "CARDIOLOGY": "heart",
}
"""Image Type value 3. Source: DICOM PS3.3 C.8.5.6.1.1 and what Philips and Siemens write there. Not
EPICARDIAL, which GE writes whatever the organ."""
_WITHOUT_SIDES: frozenset[Organ] = frozenset({"heart", "liver"})
"""Here "left" is a ventricle or a lobe, not a side of the patient."""
_SIDES: dict[str, Laterality] = {"L": "left", "R": "right", "B": "bilateral"}
FRAME_TIME_MS = (1.0, 10_000.0)
"""What the time between two frames must lie between."""


@dataclass(frozen=True)
class UltrasoundFacts:
    """Facts without identifiers; ``None``, ``False`` or empty where the header says nothing.

    ``mm_per_pixel`` is ``(x, y)``, given where all 2-D regions have the same; ``has_overlays`` is of
    graphics kept beside the pixels or declared in them, ``has_measurements`` of measurements that the
    header tells of. Neither sees what is drawn into the pixels.
    """

    organ_hint: Organ | None = None
    scanner: str | None = None
    laterality: Laterality | None = None
    vendor: Vendor | None = None
    transducer: str | None = None
    modes: tuple[Mode, ...] = ()
    mm_per_pixel: tuple[float, float] | None = None
    has_overlays: bool = False
    has_measurements: bool = False
    frame_time_ms: float | None = None

    @property
    def frame_rate_hz(self) -> float | None:
        """Frames per second of the loop."""
        return None if self.frame_time_ms is None else 1000 / self.frame_time_ms


def facts_of(dataset: pydicom.Dataset) -> UltrasoundFacts:
    """Read the facts from a header; elements that cannot be read count as absent."""
    rows, columns = (int(number(dataset, name) or 0) for name in ("Rows", "Columns"))
    regions = read_regions(dataset, rows, columns)
    organ = _organ(dataset)
    return UltrasoundFacts(
        organ_hint=organ,
        scanner=scanner_of(dataset),
        laterality=_laterality(dataset, organ),
        vendor=vendor_of(dataset),
        transducer=transducer_of(dataset),
        modes=modes_of(dataset, regions),
        mm_per_pixel=_scale(regions),
        has_overlays=_has_overlays(dataset, regions),
        has_measurements=_has_measurements(dataset, regions),
        frame_time_ms=_frame_time_ms(dataset),
    )


def _organ(dataset: pydicom.Dataset) -> Organ | None:
    """What codes and words agree on; the machine's preset only where they say nothing."""
    said = [
        organs_of_codes(_codes(dataset, *_CODED_PLACES)),
        organs_in_text(_meanings(dataset, *_CODED_PLACES)),
        *(organs_in_text(text(dataset, *names)) for names in (_OF_IMAGE, _OF_SERIES)),
        organs_in_text(_of_study(dataset)),
    ]
    if any(said):
        return agreed(said)
    kind = values(dataset, "ImageType")
    return _PRESETS.get(str(kind[2]).strip().upper()) if len(kind) > 2 else None


def _laterality(dataset: pydicom.Dataset, organ: Organ | None) -> Laterality | None:
    """The side of the image, else of the series, else of the study: what is nearest to the pixels counts."""
    for keyword in ("ImageLaterality", "FrameLaterality", "Laterality"):
        side = _SIDES.get(text(dataset, keyword).upper())
        if side is not None:
            return side
    places = [item for name in _CODED_PLACES for item in items(dataset, name)]
    modifiers = [code for place in places for code in _codes(place, "AnatomicRegionModifierSequence")]
    coded = side_of_codes(modifiers)
    if coded is not None or organ in _WITHOUT_SIDES:
        return coded
    said = (text(dataset, *_OF_IMAGE), text(dataset, *_OF_SERIES), _of_study(dataset))
    return next(filter(None, map(side_in_text, said)), None)


def _of_study(dataset: pydicom.Dataset) -> str:
    return f"{text(dataset, *_OF_STUDY)} {_meanings(dataset, 'ProcedureCodeSequence')}"


def _codes(dataset: pydicom.Dataset, *sequences: str) -> list[Code]:
    found = [item for name in sequences for item in items(dataset, name)]
    return [
        Code(text(i, "CodeValue"), text(i, "CodingSchemeDesignator").replace("SNM3", "SRT"), "")
        for i in found
    ]


def _meanings(dataset: pydicom.Dataset, *sequences: str) -> str:
    return " ".join(text(item, "CodeMeaning") for name in sequences for item in items(dataset, name))


def _scale(regions: tuple[Region, ...]) -> tuple[float, float] | None:
    scales = {region.mm_per_pixel for region in regions if region.kind == "2d"}
    return next(iter(scales)) if len(scales) == 1 else None


def _has_overlays(dataset: pydicom.Dataset, regions: tuple[Region, ...]) -> bool:
    """Overlay planes lie in the groups 6000 to 60FE. Source: DICOM PS3.5 7.6."""
    return (
        any(0x6000 <= tag.group <= 0x60FE for tag in dataset.keys())  # noqa: SIM118 - items would be converted
        or "GraphicAnnotationSequence" in dataset
        or any(region.kind == "graphics" for region in regions)
    )


def _has_measurements(dataset: pydicom.Dataset, regions: tuple[Region, ...]) -> bool:
    """Traces that only a measurement draws, or private elements that pydicom's tables call one."""
    traces = ("doppler mean trace", "doppler mode trace", "doppler max trace", "area trace", "volume trace")
    return any(region.data in traces for region in regions) or any(
        "measure" in _private_name(dataset, tag)
        for tag in dataset.keys()  # noqa: SIM118 - items would be converted
        if tag.is_private and not tag.is_private_creator
    )


def _private_name(dataset: pydicom.Dataset, tag: BaseTag) -> str:
    creator = values(dataset, Tag(tag.group, tag.element >> 8))
    try:
        return str(private_dictionary_description(tag, str(creator[0]))).casefold() if creator else ""
    except KeyError:
        return ""


def _frame_time_ms(dataset: pydicom.Dataset) -> float | None:
    """The time between frames; of a vector, its mean without the first entry, which is 0."""
    steps = [step for step in values(dataset, "FrameTimeVector")[1:] if isinstance(step, int | float)]
    rates = [number(dataset, name) for name in ("CineRate", "RecommendedDisplayFrameRate")]
    times = [
        number(dataset, "FrameTime"),
        float(sum(steps)) / len(steps) if steps else None,
        *(1000 / rate if rate else None for rate in rates),
    ]
    low, high = FRAME_TIME_MS
    return next((time for time in times if time is not None and low <= time <= high), None)
