"""Real headers: of what identifies a person in them, nothing is left; judged by another tool's list."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import data_store
import deid_data
import pydicom
import pydicom.data
import pytest
from deid.config import DeidRecipe
from deid.dicom.fields import expand_field_expression, get_fields_with_lookup
from pydantic import SecretStr
from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig
from sonoloop.platform.archive.confidentiality.elements import values_of
from sonoloop.platform.archive.confidentiality.profile import deidentify_header
from sonoloop.platform.archive.reading.pixels import quiet

KEY = SecretStr("0123456789abcdef0123456789abcdef")
TEXT = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT"}
MIN_LENGTH = 4
HARMLESS = {"StationName", "PerformedStationName", "StudyStatusID", "SOPClassUID", "ReferencedSOPClassUID"}
"""deid's patterns take them too. Where a station is called as the scanner's model is, the model stays."""
FOLDERS = [Path(pydicom.data.__file__).parent / "test_files"]
FOLDERS += [Path(package.__file__).parent for package in (deid_data, data_store)]


def _headers() -> Iterator[tuple[str, Dataset]]:
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.suffix in {".py", ".pyc", ".md", ".json", ".txt", ".zip"}:
                continue
            try:
                with quiet():
                    dataset = pydicom.dcmread(path, stop_before_pixels=True)
                    dataset.walk(lambda *_: None)
            except Exception:  # no DICOM, or broken on purpose
                continue
            if len(dataset):
                yield path.name, dataset


HEADERS = list(_headers())


def _written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    with quiet():
        dataset.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


def _identifying(dataset: Dataset) -> set[str]:
    """Values of all fields that the recipe of the package deid removes."""
    fields = get_fields_with_lookup(dataset)
    found = set()
    for action in DeidRecipe().get_actions(action="REMOVE"):
        for field in expand_field_expression(action["field"], dataset, contenders=fields).values():
            element = field.element
            if element.VR not in TEXT or element.keyword in HARMLESS:
                continue
            found.update(text.strip() for text in values_of(element))
    return {value for value in found if len(value) >= MIN_LENGTH and value not in UID_dictionary}


def test_the_headers_at_hand_are_many_and_hold_ultrasound() -> None:
    assert len(HEADERS) > 200
    assert sum(dataset.get("Modality") == "US" for _, dataset in HEADERS) >= 10


@pytest.mark.parametrize("config", [ConfidentialityConfig(), ConfidentialityConfig(clean_descriptors=True)])
def test_no_value_of_a_field_that_another_tool_removes_is_left_in_the_bytes(
    config: ConfidentialityConfig,
) -> None:
    left = []
    for name, dataset in HEADERS:
        data = _written(deidentify_header(dataset, config, key=KEY)).decode("latin-1")
        for value in _identifying(dataset):
            if re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", data, re.IGNORECASE):
                left.append((name, value))
    assert not left, left[:40]
