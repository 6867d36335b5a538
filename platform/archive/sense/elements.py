"""Single elements of a header that nobody has checked: a value as asked for, or nothing."""

from __future__ import annotations

import math
from typing import Any

import pydicom
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag


def values(dataset: pydicom.Dataset, name: str | BaseTag) -> tuple[Any, ...]:
    """The values of an element, its items where it is a sequence; none where they cannot be converted."""
    try:
        value = dataset[name].value if name in dataset else None
    except Exception:  # pydicom converts on access, and arbitrary bytes raise whatever its converters raise
        return ()
    if isinstance(value, MultiValue | pydicom.Sequence):
        return tuple(value)
    return () if value is None else (value,)


def text(dataset: pydicom.Dataset, *keywords: str) -> str:
    """The elements' values as text, with a space between any two; empty where there are none."""
    return " ".join(str(value) for keyword in keywords for value in values(dataset, keyword)).strip()


def number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """The element's one value as a finite number."""
    found = values(dataset, keyword)
    try:
        value = float(found[0]) if len(found) == 1 else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def items(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    """The items of a sequence."""
    return [item for item in values(dataset, keyword) if isinstance(item, pydicom.Dataset)]
