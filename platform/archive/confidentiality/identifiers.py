"""The identifiers of one header, searched for in what the profile keeps.

The profile lists attributes; people also type a name where it does not belong. What the header itself
gives as a name, a number or a birth date is therefore looked for in every text that stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement

from sonoloop.platform.archive.confidentiality.elements import values_of
from sonoloop.platform.archive.confidentiality.table import basic_actions, option_actions

_TEXT = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UT"})
_SERIAL_NUMBER, _BIRTH_DATE = tag_for_keyword("DeviceSerialNumber"), tag_for_keyword("PatientBirthDate")
_MIN_NAME, _MIN_VALUE = 3, 4
"""Shorter names (of Latin letters) and values occur in too many harmless words to be searched for."""


@dataclass(frozen=True)
class Identifiers:
    """Words and values, in lower case, that must not stay anywhere."""

    words: frozenset[str]

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """Names as words of their own, for they lie in other words; numbers wherever they are."""
        longest_first = sorted(self.words, key=lambda word: (-len(word), word))
        parts = [
            re.escape(word) if any(map(str.isdigit, word)) else rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
            for word in longest_first
        ]
        return re.compile("|".join(parts)) if parts else None

    def found_in(self, text: str) -> bool:
        """Whether the text holds one of them."""
        return self._pattern is not None and self._pattern.search(text.casefold()) is not None


def identifiers_of(elements: Iterable[DataElement]) -> Identifiers:
    """Collect the identifiers of a header from all its elements, nested ones included."""
    return Identifiers(frozenset(word for element in elements for word in _words(element)))


def _words(element: DataElement) -> Iterator[str]:
    texts = [text.strip().casefold() for text in values_of(element)]
    if element.VR == "PN":
        for text in texts:
            parts = re.split(r"[\^=,\s]+", text)
            yield from (part for part in parts if len(part) >= _MIN_NAME or (part and not part.isascii()))
    elif _is_identifying(element):
        yield from (text for text in texts if len(text) >= _MIN_VALUE)


def _is_identifying(element: DataElement) -> bool:
    """A listed text that is no description and no device's name; the scanner's model is nobody's secret."""
    tag = element.tag
    if tag in (_SERIAL_NUMBER, _BIRTH_DATE):
        return True
    harmless = tag in option_actions("clean_descriptors") or tag in option_actions("retain_device_identity")
    return element.VR in _TEXT and tag in basic_actions() and not harmless
