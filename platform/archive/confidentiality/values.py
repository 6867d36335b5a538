"""What stands in an identifier's place: keyed hashes, shifted dates, dummies.

The same value gives the same replacement in every object of the archive, and nobody without the key can
find out which value it was.
"""

from __future__ import annotations

import hmac
import re
import uuid
from datetime import date, timedelta

from pydantic import SecretStr
from pydicom.uid import UID, UID_dictionary

from sonoloop.platform.identity import pseudonym

MIN_SHIFT_DAYS, MAX_SHIFT_DAYS = 30, 1_855
"""All dates of a patient move into the past by one number of days in this range, both ends inside."""
DUMMY_DATE = "19000101"
_DUMMIES: dict[str, str | int | bytes] = {
    "DA": DUMMY_DATE,
    "DT": DUMMY_DATE,
    "TM": "000000",
    "AS": "000Y",
    "UR": "http://removed.invalid",
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "REMOVED"),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW"), b"\x00" * 8),
}
_DATETIME = re.compile(r"(\d{4})(\d{2})?(\d{2})?((?:\d{2,6})?(?:\.\d{1,6})?(?:[+-]\d{4})?)")


def hashed_uid(uid: str, key: SecretStr) -> UID:
    """A UID below ``2.25.`` that stands for ``uid`` wherever it occurs; the standard's own stay as they are.

    Source: DICOM PS3.5 B.2: a UUID as one decimal number. Its version bits say "made from a name".
    """
    if uid in UID_dictionary:
        return UID(uid)
    digest = hmac.digest(key.get_secret_value().encode(), f"uid\x00{uid}".encode(), "sha256")
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")


def shift_of(patient_id: str, key: SecretStr) -> timedelta:
    """How far the dates of a patient move: negative, whole days."""
    number = int(pseudonym(key, "date-shift", patient_id), 16)
    return -timedelta(days=MIN_SHIFT_DAYS + number % (MAX_SHIFT_DAYS - MIN_SHIFT_DAYS + 1))


def shifted(value: str, shift: timedelta) -> str:
    """A DA or DT moved by whole days, its precision and time of day kept; empty where it is no date."""
    match = _DATETIME.fullmatch(value.strip().replace(".", "", 2) if value[4:5] == "." else value.strip())
    if match is None:
        return ""
    year, month, day, rest = match.groups()
    try:
        moved = date(int(year), int(month or 1), int(day or 1)) + shift
    except (ValueError, OverflowError):
        return ""
    text = moved.strftime("%Y%m%d").zfill(8)
    return text[: 4 + 2 * bool(month) + 2 * bool(day)] + rest


def dummy(vr: str) -> str | int | bytes | None:
    """A value without meaning that the VR allows; ``None`` where there is none."""
    return _DUMMIES.get(vr)
