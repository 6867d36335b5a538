"""What the header of one very file says about its patient, to be looked for in the text of its pixels.

Names, numbers and dates are compared as a scanner draws them and as a machine misreads them: without accents,
capitals and separators, with 0 and O, 1 and I, 5 and S, 8 and B as one, and with a few wrong letters.
Nothing of this is ever written or logged: an `Identifiers` has no representation.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date

from pydicom import Dataset
from rapidfuzz import fuzz

from sonoloop.platform.archive.deidentify.marks import is_word
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.pixels import quiet

_KEYWORDS = frozenset(
    {
        "AccessionNumber",
        "AdditionalPatientHistory",
        "AdmissionID",
        "BranchOfService",
        "CountryOfResidence",
        "CurrentPatientLocation",
        "DeviceSerialNumber",
        "FillerOrderNumberImagingServiceRequest",
        "InstitutionAddress",
        "InstitutionName",
        "InstitutionalDepartmentName",
        "IssuerOfPatientID",
        "MedicalRecordLocator",
        "MilitaryRank",
        "Occupation",
        "OtherPatientIDs",
        "PatientAddress",
        "PatientComments",
        "PatientID",
        "PatientInstitutionResidence",
        "PatientInsurancePlanCodeSequence",
        "PatientReligiousPreference",
        "PatientTelecomInformation",
        "PatientTelephoneNumbers",
        "PerformedProcedureStepID",
        "PersonAddress",
        "PersonTelephoneNumbers",
        "PlacerOrderNumberImagingServiceRequest",
        "ReferringPhysicianAddress",
        "ReferringPhysicianTelephoneNumbers",
        "RegionOfResidence",
        "RequestedProcedureID",
        "RequestingService",
        "ResponsibleOrganization",
        "ScheduledProcedureStepID",
        "ServiceEpisodeID",
        "StationName",
        "StudyID",
    }
)
"""Besides every person name and date of the header. Source: DICOM PS3.15 table E.1-1, actions X, Z and D."""
MIN_SIMILARITY = 82
"""Percent of letters in order that make a longer word the same one; 82 forgives one in six."""
_MIN_FUZZY = 5
"""Shorter words and numbers must agree in every letter and stand alone."""
_SAME = str.maketrans("01586|", "OISBGI")
_MONTHS_IN_TURN = (
    "jan january januar janvier enero gennaio janeiro",
    "feb february februar fevrier febrero febbraio fevereiro",
    "mar march marz mrz mars marzo marco",
    "apr april avril abril aprile",
    "may mai mayo maggio maio",
    "jun june juni juin junio giugno junho",
    "jul july juli juillet julio luglio julho",
    "aug august aout agosto",
    "sep sept september septembre septiembre settembre setembro",
    "oct okt october oktober octobre octubre ottobre outubro",
    "nov november novembre noviembre novembro",
    "dec dez december dezember decembre diciembre dicembre dezembro",
)
MONTHS = {month: number for number, months in enumerate(_MONTHS_IN_TURN, 1) for month in months.split()}
"""Names of months and their usual short forms, small and without accents, to their numbers."""
_DATE_ORDERS = ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%y%m%d", "%d%m%y", "%m%d%y")


@dataclass(frozen=True, repr=False)
class Identifiers:
    """Words and dates, brought to the form in which they are compared."""

    words: frozenset[str] = frozenset()
    dates: frozenset[str] = field(default=frozenset())

    def are_in(self, text: str) -> bool:
        """Whether a text as recognised holds one of them."""
        tokens = frozenset(_form(token) for token in re.split(r"[^\w|]+", text)) - {""}
        joined = _form(text)
        return self._has_date(text) or any(_holds(joined, tokens, word) for word in self.words)

    def _has_date(self, text: str) -> bool:
        plain = re.sub(r"[^\W\d_]+", _month_number, _without_accents(text).casefold())
        numbers = re.findall(r"\d+", plain)
        runs = {"".join(numbers[i:j]) for i in range(len(numbers)) for j in range(i + 1, i + 4)}
        padded = {"".join(n.zfill(2) for n in numbers[i : i + 3]) for i in range(len(numbers))}
        return not self.dates.isdisjoint(runs | padded)


def identifiers_of(instance: Instance) -> Identifiers:
    """Everything in the header that names a person, a number or a day; of a plain picture, its path's words.

    Words of a path that are scanner marks (an organ, a side) are no identifiers; those of a header are.
    """
    dataset = instance.dataset
    if dataset is None:
        words = (word for word in re.findall(r"[^\W\d_]+|\d+", instance.name) if not is_word(word))
        return Identifiers(frozenset(_form(word) for word in words if len(word) > 3))
    with quiet():  # values that break the standard's rules are converted here for the first time
        texts, days = _texts_and_days(dataset)
    words = (word for text in texts for word in (text, *re.split(r"[^\w]+", text)))
    return Identifiers(
        frozenset(form for form in map(_form, words) if len(form) > 1 and form not in _NO_NAMES),
        frozenset(form for day in days for form in _date_forms(day)),
    )


_NO_NAMES = frozenset(
    {"DR", "MR", "MD", "MRS", "PHD", "PROF", "TEST", "NONE", "UNKNOWN", "ANONYMOUS", "OF", "US"}
)
"""Titles and fillers of name fields, in the compared form."""


def _texts_and_days(dataset: Dataset) -> tuple[list[str], list[date]]:
    texts: list[str] = []
    days: list[date] = []
    for element in dataset.iterall():
        if element.VR in ("DA", "DT"):
            days += [day for value in _values(element.value) if (day := _day(value))]
        elif element.VR == "PN" or element.keyword in _KEYWORDS:
            texts += _values(element.value)
    return texts, days


def _values(value: object) -> list[str]:
    several = value if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else [value]
    return [str(one) for one in several if one not in (None, "")]  # type: ignore[attr-defined]


def _day(value: str) -> date | None:
    digits = re.sub(r"\D", "", value)[:8]
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return None


def _date_forms(day: date) -> set[str]:
    return {day.strftime(order) for order in _DATE_ORDERS}


def _month_number(match: re.Match[str]) -> str:
    number = MONTHS.get(match[0])
    return f" {number:02d} " if number else " "


def _holds(joined: str, tokens: frozenset[str], word: str) -> bool:
    if len(word) < _MIN_FUZZY:
        return word in tokens or joined == word
    if len(joined) < max(_MIN_FUZZY - 1, len(word) / 2):
        return False
    # the shorter of the two is slid along the longer: a name cut off at the margin is still the name
    return bool(fuzz.partial_ratio(word, joined, score_cutoff=MIN_SIMILARITY))


def _form(text: str) -> str:
    """Capitals without accents and separators, letters and digits that look alike as one."""
    return re.sub(r"[^\w|]|_", "", _without_accents(text).upper()).translate(_SAME)


def _without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
