"""Ultrasound headers without pixels, made for tests, and those of the real files that PyPI's wheels ship."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence


def header(**elements: Any) -> Dataset:
    """A header of an ultrasound picture, 480 x 640; ``elements`` are added by keyword."""
    dataset = Dataset()
    dataset.Modality, dataset.Rows, dataset.Columns = "US", 480, 640
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def region(left: int, top: int, right: int, bottom: int, **elements: Any) -> Dataset:
    """An item of SequenceOfUltrasoundRegions: 2-D tissue at 0.2 x 0.3 mm per pixel, unless told otherwise."""
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = 0.02, 0.03
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def coded(value: str, scheme: str, meaning: str = "", **elements: Any) -> Sequence:
    """A code sequence of one item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    for keyword, content in elements.items():
        setattr(item, keyword, content)
    return Sequence([item])


def real_header(name: str) -> Dataset:
    """The header of a file of the pydicom, pydicom-data or deid-data wheel."""
    return pydicom.dcmread(real_path(name), stop_before_pixels=True)


def real_path(name: str) -> Path:
    """The place of such a file."""
    spec = importlib.util.find_spec("deid_data")
    assert spec is not None
    assert spec.submodule_search_locations
    found = Path(spec.submodule_search_locations[0], "data", "ultrasounds", name)
    if found.exists():
        return found
    path = get_testdata_file(name, download=False)
    assert path is not None, name
    return Path(str(path))
