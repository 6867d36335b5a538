"""Which imaging modes a picture shows: from its regions, its Image Type and the words of its series.

A mode is listed where something says so; a mode that is not listed may be there all the same.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal, get_args

import pydicom

from sonoloop.platform.archive.sense.elements import number, text, values
from sonoloop.platform.archive.sense.regions import Region, are_side_by_side

Mode = Literal[
    "b-mode",
    "m-mode",
    "colour-doppler",
    "power-doppler",
    "spectral-doppler",
    "tissue-doppler",
    "elastography",
    "contrast",
    "3d",
    "dual-view",
]
MODES: tuple[Mode, ...] = get_args(Mode)

_BITS: dict[int, Mode] = {
    0x0001: "b-mode",
    0x0002: "m-mode",
    0x0004: "spectral-doppler",
    0x0008: "spectral-doppler",
    0x0010: "colour-doppler",
    0x0020: "colour-doppler",
    0x0040: "3d",
    0x0100: "power-doppler",
}
"""Image Type value 4, a sum of bits in hexadecimal. Source: DICOM PS3.3 C.8.5.6.1.1. Not 0200, tissue
characterisation: makers mean different things by it."""

_WORDS: dict[Mode, str] = {
    "m-mode": r"\b(?:tm|m)[ -]?mode\b",
    "colour-doppler": r"\bcolou?r\b|\bcf[mi]\b|\bfarbdoppler|\bfkds\b|\bdoppler couleur|彩色|彩超",
    "power-doppler": r"\bpower[ -]?doppler|\bcpa\b|\bpdi\b|能量多普勒",
    "spectral-doppler": r"\b(?:pw|cw)(?:d| doppler)?\b|\bspectral|\bspektral|频谱",
    "tissue-doppler": r"\btdi\b|\bdti\b|\btissue doppler|\bgewebedoppler",
    "elastography": r"elasto|\bshear[ -]?wave|\bswe\b|\barfi\b|弹性",
    "contrast": r"\bceus\b|\bcontrast|\bkontrast|\bsonovue\b|造影",
    "3d": r"\b[34]d\b|\bvolume\b|三维",
    "dual-view": r"\bdual\b|\bside by side\b|\bzweigeteilt",
}
_IN_COLOUR: frozenset[Mode] = frozenset({"colour-doppler", "power-doppler", "tissue-doppler", "elastography"})
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "ProcessingFunction")
"""Not the study's description: it speaks of the examination, not of this picture."""


def modes_of(dataset: pydicom.Dataset, regions: tuple[Region, ...]) -> tuple[Mode, ...]:
    """The modes that header and regions speak of, in the order of `MODES`."""
    found = {*_modes_of_regions(regions), *_modes_of_image_type(dataset), *_modes_of_words(dataset)}
    if found.isdisjoint(_IN_COLOUR) and _has_colour_data(dataset):
        found.add("colour-doppler")
    return tuple(mode for mode in MODES if mode in found)


def _has_colour_data(dataset: pydicom.Dataset) -> bool:
    """Ultrasound Color Data Present (0028,0014), unless colours come from a palette.

    The flag says that there is colour, not that it is flow; machines that store grey pictures through a
    palette set it for those too (Philips CX50).
    """
    is_palette = text(dataset, "PhotometricInterpretation").startswith(("PALETTE", "MONOCHROME"))
    return number(dataset, "UltrasoundColorDataPresent") == 1 and not is_palette


def _modes_of_regions(regions: tuple[Region, ...]) -> set[Mode]:
    found: set[Mode] = set()
    for region in regions:
        if region.kind == "2d" and region.data == "tissue":
            found.add("b-mode")
        if region.kind in ("2d", "m-mode") and region.data == "colour flow":
            found.add("colour-doppler")
        if region.kind == "m-mode":
            found.add("m-mode")
        if region.kind == "spectral" or region.data in ("pw spectral", "cw spectral"):
            found.add("spectral-doppler")
    pictures = [region for region in regions if region.kind == "2d"]
    if any(are_side_by_side(one, other) for one, other in itertools.combinations(pictures, 2)):
        found.add("dual-view")
    return found


def _modes_of_image_type(dataset: pydicom.Dataset) -> set[Mode]:
    parts = values(dataset, "ImageType")
    if len(parts) < 4 or not re.fullmatch(r"[0-9A-Fa-f]{4}", str(parts[3]).strip()):
        return set()
    bits = int(str(parts[3]), 16)
    return {mode for bit, mode in _BITS.items() if bits & bit}


def _modes_of_words(dataset: pydicom.Dataset) -> set[Mode]:
    words = text(dataset, *_DESCRIPTIONS).casefold().replace("_", " ")
    return {mode for mode, pattern in _WORDS.items() if re.search(pattern, words)}
