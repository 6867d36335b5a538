"""Walking a header that may hold anything: only what the dictionary knows, and as it knows it."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

MAX_DEPTH = 16
"""Sequences nested deeper are left out; no ultrasound object has more than four."""
_PIXELS = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003, 0x7FE00008, 0x7FE00009, 0x7FE00010})


def readable_elements(dataset: Dataset) -> Iterator[DataElement]:
    """The elements of one level, pixels left out.

    Left out too are public elements that the dictionary does not know or knows under another VR, and those
    whose value cannot be read.
    """
    for tag in dataset.keys():  # noqa: SIM118 - iterating a dataset converts every element
        if tag not in _PIXELS and (element := _readable(dataset, tag)) is not None:
            yield element


def all_elements(dataset: Dataset, depth: int = 0) -> Iterator[DataElement]:
    """As `readable_elements`, and those of nested items after their sequence."""
    for element in readable_elements(dataset):
        yield element
        if element.VR == "SQ" and depth < MAX_DEPTH:
            for item in element.value:
                yield from all_elements(item, depth + 1)


def values_of(element: DataElement) -> list[str]:
    """The values of an element as text; none of a sequence, whose items are elements of their own."""
    if element.VR == "SQ" or element.value is None:
        return []
    return [str(value) for value in (element.value if element.VM > 1 else (element.value,))]


def _readable(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    try:
        element: DataElement = dataset[tag]
        if element.VR in ("DS", "IS"):  # the reader lets text pass here, a new element does not
            element = DataElement(tag, element.VR, element.value)
    except Exception:  # arbitrary bytes under any VR: each converter raises its own
        return None
    if tag.is_private:
        return element
    if not dictionary_has_tag(tag):
        return None
    expected = dictionary_VR(tag)
    return element if expected == element.VR or element.VR in expected.split(" or ") else None
