"""What takes the place of each element of a header.

Beyond Table E.1-1 this fails closed on what the table does not list: free text passes only where its
attribute describes device or code, other dates move as the listed ones do, other UIDs are replaced unless
they are the standard's, and bytes never pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import SecretStr
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig
from sonoloop.platform.archive.confidentiality.elements import MAX_DEPTH, readable_elements, values_of
from sonoloop.platform.archive.confidentiality.identifiers import Identifiers
from sonoloop.platform.archive.confidentiality.plausible import is_plausible
from sonoloop.platform.archive.confidentiality.table import Action, actions, basic_actions
from sonoloop.platform.archive.confidentiality.values import dummy, hashed_uid, shifted
from sonoloop.platform.archive.confidentiality.words import only_known
from sonoloop.platform.identity import pseudonym

_KEPT_TEXT = frozenset(
    {
        "CodeMeaning",
        "CodeValue",
        "CodingSchemeDesignator",
        "CodingSchemeVersion",
        "Manufacturer",
        "ManufacturerModelName",
        "PostprocessingFunction",
        "ProcessingFunction",
        "SoftwareVersions",
        "StageName",
        "TransducerData",
        "ViewName",
    }
)
"""Unlisted attributes with free text that pass, once none of the header's identifiers is found in them."""
_FREE_TEXT = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_CODED_TEXT = frozenset({"CS", "DS", "IS", "TM"})
_DATES = frozenset({"DA", "DT"})
_NUMBERS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_MAX_LO = 64
_PSEUDONYMS = {
    "PatientID": ("patient", 24),
    "AccessionNumber": ("accession", 16),
    "StudyID": ("study-id", 16),
}
"""Keyed hashes where the profile allows an empty value or a dummy: kind and length, which SH bounds to 16."""
New = Any
"""A value as pydicom takes it for the element's VR, or ``None`` where the element goes."""


@dataclass(frozen=True)
class Rules:
    """What the cleaning of one header goes by."""

    config: ConfidentialityConfig
    key: SecretStr
    shift: timedelta
    identifiers: Identifiers


def cleaned(dataset: Dataset, rules: Rules, depth: int = 0) -> Dataset:
    """A new dataset of what may stay; the one given is left as it is."""
    result = Dataset()
    for element in readable_elements(dataset):
        if element.tag.is_private:
            _keep_private(dataset, element, result, rules, depth)
        elif (value := _new_value(element, rules, depth)) is not None:
            result.add(DataElement(element.tag, element.VR, value))
    return result


def _new_value(element: DataElement, rules: Rules, depth: int) -> New:
    """The value that takes the element's place, ``None`` where the element goes."""
    tag = element.tag
    repeating = 0x5000 <= tag.group < 0x5100 or 0x6000 <= tag.group < 0x6100  # curves and overlays
    if repeating or tag.group <= 0x0004 or tag.element == 0:
        return None
    action = actions(rules.config).get(tag)
    if action is None:
        return _unlisted(element, rules, depth)
    if action is Action.CLEAN:
        clean = _without_identity(element, rules, depth)
        return _replaced(element, basic_actions()[tag], rules, depth) if clean is None else clean
    return _replaced(element, action, rules, depth)


def _replaced(element: DataElement, action: Action, rules: Rules, depth: int) -> New:
    if action is Action.REMOVE:
        return None
    if action is Action.KEEP or (action is Action.UID and element.VR == "SQ"):
        return _kept(element, rules, depth)
    if action is Action.UID or element.VR == "UI":
        return _hashed(element, rules)
    if element.VR == "SQ":
        return Sequence()  # a dummy item would need dummies of all that it must hold
    keyword = keyword_for_tag(element.tag)
    if keyword in _PSEUDONYMS and element.value:
        kind, length = _PSEUDONYMS[keyword]
        return pseudonym(rules.key, kind, str(element.value))[:length]
    if action is Action.EMPTY:
        return b"" if element.VR in _BYTES else ""
    return (
        _moved(element, rules)
        if element.VR in _DATES and rules.config.dates == "shift"
        else dummy(element.VR)
    )


def _kept(element: DataElement, rules: Rules, depth: int) -> New:
    """The value itself; of a sequence its items, cleaned; nothing where an identifier is found in it."""
    if element.VR == "SQ":
        return _items(element, rules, depth)
    if keyword_for_tag(element.tag) == "PatientAge":
        return _age(str(element.value))
    if any(map(rules.identifiers.found_in, values_of(element))):
        return None
    return element.value if element.tag.is_private or is_plausible(element) else None


def _without_identity(element: DataElement, rules: Rules, depth: int) -> New:
    """What a cleaning option leaves of a value, ``None`` where that is nothing."""
    if element.VR == "SQ":
        return _items(element, rules, depth)
    if element.VR in _DATES:
        return _moved(element, rules)
    if element.VR == "TM":
        return _kept(element, rules, depth)
    if element.VR not in _FREE_TEXT:
        return None
    words = only_known(" ".join(values_of(element)))
    text = " ".join(word for word in words if not rules.identifiers.found_in(word))
    return text[:_MAX_LO].strip() or None


def _unlisted(element: DataElement, rules: Rules, depth: int) -> New:
    keyword = keyword_for_tag(element.tag)
    if element.VR == "UI" and not keyword.endswith("SOPClassUID"):
        return _hashed(element, rules)
    if element.VR in _DATES and rules.config.dates == "shift":
        return _moved(element, rules)
    if (element.VR in _DATES or element.VR == "TM") and rules.config.dates == "remove":
        return None
    is_kept = element.VR in _NUMBERS | _CODED_TEXT | _DATES | {"SQ", "UI"} or keyword in _KEPT_TEXT
    return _kept(element, rules, depth) if is_kept else None


def _items(element: DataElement, rules: Rules, depth: int) -> Sequence | None:
    if depth >= MAX_DEPTH:
        return None
    return Sequence([cleaned(item, rules, depth + 1) for item in element.value])


def _moved(element: DataElement, rules: Rules) -> list[str]:
    return [shifted(text, rules.shift) for text in values_of(element)]


def _hashed(element: DataElement, rules: Rules) -> list[UID]:
    return [hashed_uid(text, rules.key) for text in values_of(element) if text]


def _age(age: str) -> str:
    """An age as it is up to 89 years, ``090Y`` above (45 CFR 164.514(b)(2)(i)(C)); empty where it is none."""
    if len(age) != 4 or not age[:3].isdigit() or age[3] not in "DWMY":
        return ""
    return "090Y" if age[3] == "Y" and int(age[:3]) > 89 else age


def _keep_private(source: Dataset, element: DataElement, result: Dataset, rules: Rules, depth: int) -> None:
    """Copy a private element where the configuration lists it and none of the identifiers is in it."""
    tag = element.tag
    if tag.element < 0x1000:
        return
    owner = Tag(tag.group, tag.element >> 8)
    creator = str(source[owner].value) if owner in source else ""
    if (creator, f"{tag.group:04x}xx{tag.element & 0xFF:02x}") not in rules.config.keep_private:
        return
    if isinstance(element.value, bytes):
        value = None if rules.identifiers.found_in(element.value.decode("latin-1")) else element.value
    else:
        value = _kept(element, rules, depth)
    if value is not None:
        block = result.private_block(tag.group, creator, create=True)
        block.add_new(tag.element & 0xFF, element.VR, value)
