"""Results made for the tests of exports, and the headers that they refer to."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr
from pydicom.dataset import Dataset
from tests.dicom_files import STUDY, speckle, ultrasound

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.export.headers import clean_header
from sonoloop.platform.export.results import Result
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.lexicon import BY_ORGAN, Entities, LesionBox, Organ, entities_json, field_values
from sonoloop.platform.lexicon.vocabulary import fields, qualifiers
from sonoloop.platform.records import CaseImage, CaseRecord

KEY = SecretStr("0123456789abcdef0123456789abcdef")
WRITTEN_AT = datetime(2026, 2, 1, 12, 30, tzinfo=UTC)
FULL = {
    "PatientSex": "F",
    "StudyDate": "20190105",
    "StudyTime": "101500",
    "ReferringPhysicianName": "Meier^Otto",
    "StudyID": "S-1",
    "SeriesNumber": 1,
    "InstanceNumber": 1,
    "ImageType": ["ORIGINAL", "PRIMARY"],
}
"""What an ultrasound header has beside what `tests.dicom_files.ultrasound` writes."""
BREAST = {
    "organ": "breast",
    "lesion": "present",
    "shape": "oval",
    "orientation": "parallel",
    "margin": "circumscribed",
    "echo_pattern": "complex cystic and solid",
    "posterior_features": "enhancement",
    "calcifications": "not assessed",
    "bi_rads": "3",
    "laterality": "left",
    "clock_position": "3",
    "nipple_distance_mm": 20,
    "size_mm": 12,
}
BOXES = (
    LesionBox(image_index=0, x=0.125, y=0.25, width=0.5, height=0.25),
    LesionBox(image_index=1, x=0.5, y=0.5, width=0.5, height=0.5),
)


def full_ultrasound(frames: int = 1, channels: int = 1, **header: Any) -> bytes:
    """An ultrasound file with all that its IOD demands."""
    cine = {"FrameTime": "33.3", "FrameIncrementPointer": 0x00181063} if frames > 1 else {}
    pixels = speckle(frames=frames, channels=channels)
    return ultrasound(pixels, frames=frames, **{**FULL, **cine, **header})


def clean_headers(num: int = 2) -> dict[str, Dataset]:
    """De-identified headers of one study, the first of a cine of three frames, by instance id."""
    headers = {}
    for place in range(num):
        frames = 3 if place == 0 else 1
        data = full_ultrasound(frames, instance=str(place))
        instance = open_instance(io.BytesIO(data), name=f"{place}.dcm")
        identity = pseudonym(KEY, "instance", instance.instance_uid)
        headers[identity] = clean_header(instance, ConfidentialityConfig(), KEY).dataset
    return headers


def result(
    entities: dict[str, Any] | None = None, *, reviewed: bool = True, num_images: int = 2, **changes: Any
) -> Result:
    """A result on the study of `clean_headers`; a breast lesion with two boxes unless told otherwise."""
    chosen = BREAST if entities is None else entities
    images = tuple(
        CaseImage(
            image_key=f"images/ab/{place}.png",
            instance_id=pseudonym(KEY, "instance", f"{STUDY}.1.{place}"),
            frame_index=2 if place == 0 else 0,
            width=128,
            height=96,
        )
        for place in range(num_images)
    )
    case = CaseRecord(
        case_id=pseudonym(KEY, "study", STUDY),
        patient_key="f" * 24,
        organ_hint="breast",
        scanner=None,
        images=images,
        indexed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    model = BY_ORGAN[chosen["organ"]].model_validate(chosen)
    values: dict[str, Any] = {
        "case": case,
        "status": "reviewed" if reviewed else "draft",
        "findings": "Ovale Läsion links bei 3 Uhr.",
        "impression": "BI-RADS 3.",
        "entities_json": entities_json(model),
        "boxes": BOXES[:num_images],
        "model_version": "echovlm-nano/abc",
        "reader": "e" * 24 if reviewed else None,
        "written_at": WRITTEN_AT,
    }
    return Result(**{**values, **changes})


def every_entities(organ: Organ) -> list[Entities]:
    """Entities of an organ that between them hold each value of each field once."""
    names = [*fields(organ), *qualifiers(organ)]
    words = {name: _values(organ, name) for name in names if name not in ("organ", "lesion")}
    found = []
    for place in range(max(map(len, words.values()))):
        given = {name: values[place % len(values)] for name, values in words.items()}
        found.append(BY_ORGAN[organ].model_validate({"organ": organ, "lesion": "present", **given}))
    return found


def _values(organ: Organ, name: str) -> tuple[str | int, ...]:
    return (7,) if name.endswith("_mm") else field_values(organ, name)
