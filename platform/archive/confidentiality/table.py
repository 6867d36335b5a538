"""What the profile does with each attribute: Table E.1-1 of DICOM PS3.15 and the columns of its options.

The basic profile's column comes from the package dicom-anonymizer, which follows the standard's editions;
the options' columns, which it lacks, lie in ``options.json``. Attributes that the standard lists since that
file's edition have no option there, so their basic action stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.tag import BaseTag, Tag

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig

EDITION = "2026c"
_OPTIONS = (
    # in rising precedence: what keeps a value wins over what cleans it
    "clean_structured_content",
    "clean_descriptors",
    "retain_patient_characteristics",
    "retain_institution_identity",
    "retain_device_identity",
    "retain_uids",
)


class Action(StrEnum):
    """The action codes of PS3.15 Table E.1-1a."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    KEEP = "K"
    CLEAN = "C"


_RESOLVED = {
    "X_TAGS": Action.REMOVE,
    "Z_TAGS": Action.EMPTY,
    "D_TAGS": Action.DUMMY,
    "U_TAGS": Action.UID,
    "X_Z_TAGS": Action.EMPTY,
    "X_D_TAGS": Action.DUMMY,
    "Z_D_TAGS": Action.DUMMY,
    "X_Z_D_TAGS": Action.DUMMY,
    "X_Z_U_STAR_TAGS": Action.UID,
}
"""Conditional actions, whose choice hangs on the attribute's type in the IOD: the one that is conformant
whatever the type is. An empty value is valid for types 2 and 3, a dummy for all."""
_REMOVABLE = ("X_Z_TAGS", "X_D_TAGS", "X_Z_D_TAGS")
"""Sequences of these are removed: the ultrasound IODs have them as type 3; without items they are wrong."""


@cache
def basic_actions() -> Mapping[BaseTag, Action]:
    """The basic profile's column, without the repeating groups, which never pass."""
    database = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    return MappingProxyType(
        {
            Tag(tag): Action.REMOVE if name in _REMOVABLE and _is_sequence(tag) else action
            for name, action in _RESOLVED.items()
            for tag in database[name]
            if len(tag) == 2
        }
    )


def _is_sequence(tag: tuple[int, int]) -> bool:
    return bool(dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ")


@cache
def option_actions(option: str) -> Mapping[BaseTag, Action]:
    """One option's column, without the repeating groups."""
    columns = json.loads(files(__package__).joinpath("options.json").read_text())[option]
    rows = ((tag, code) for code, lines in columns.items() for tag in " ".join(lines).split())
    return MappingProxyType({Tag(f"0x{tag}"): Action(code) for tag, code in rows if "x" not in tag})


@cache
def actions(config: ConfidentialityConfig) -> Mapping[BaseTag, Action]:
    """The actions under these options, for the attributes that the profile lists."""
    found = dict(basic_actions())
    for option in _OPTIONS:
        if getattr(config, option):
            found.update(option_actions(option))
    if config.dates != "remove":
        kept = Action.KEEP if config.dates == "keep" else Action.CLEAN
        found.update(dict.fromkeys(option_actions("retain_dates"), kept))
    return MappingProxyType(found)
