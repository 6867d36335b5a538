"""Whether a value is what its attribute may hold.

A damaged length makes one element swallow those behind it, the patient's name among them, which then is
nobody's identifier any more. Such a value is longer than its VR allows, has more values than its attribute,
or is a list of numbers that spell text.
"""

from __future__ import annotations

import re

import numpy as np
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement

from sonoloop.platform.archive.confidentiality.elements import values_of

_MAX_LENGTH = {"CS": 16, "DA": 8, "DS": 32, "DT": 26, "IS": 16, "LO": 64, "SH": 16, "TM": 16, "UI": 64}
"""PS3.5 Table 6.2-1; DS and IS have some grace, for makers write more digits, and only numbers pass."""
_LONGEST_TEXT = 10_240
_LINES = re.compile(r"[\r\n\t\f]")
_DTYPES = {
    **{"AT": "<u4", "FL": "<f4", "FD": "<f8", "SL": "<i4", "SS": "<i2"},
    **{"SV": "<i8", "UL": "<u4", "US": "<u2", "UV": "<u8"},
}
_LETTERS = re.compile(rb"[A-Za-z]{5}")


def is_plausible(element: DataElement) -> bool:
    """Whether length, number of values and content fit a public attribute that is no sequence."""
    fewest, most = _bounds(dictionary_VM(element.tag))
    if element.VM and not fewest <= element.VM <= most:
        return False
    if element.VR in _DTYPES:
        return element.VM <= 1 or most < np.inf or not _spells(element)
    longest = _MAX_LENGTH.get(element.VR, _LONGEST_TEXT)
    return all(len(text) <= longest and _LINES.sub("", text).isprintable() for text in values_of(element))


def _bounds(multiplicity: str) -> tuple[int, float]:
    """Fewest and most values, from ``1``, ``1-3``, ``2-n`` or ``2-2n``."""
    fewest, _, most = multiplicity.partition("-")
    if "n" in multiplicity:
        return int(fewest), np.inf
    return int(fewest), int(most or fewest)


def _spells(element: DataElement) -> bool:
    data = np.array(
        [int(v) if element.VR == "AT" else v for v in element.value], _DTYPES[element.VR]
    ).tobytes()
    return _LETTERS.search(data) is not None
