"""Drafts to show, and a door to the session's Label Studio."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr

from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.predictions import prediction_of
from sonoloop.platform.labelstudio.upload import CaseUpload
from sonoloop.platform.lexicon import (
    BY_ORGAN,
    LesionBox,
    Organ,
    entities_json,
    field_values,
    fields,
    number_range,
    numeric_fields,
    qualifiers,
)
from sonoloop.platform.records import DraftRecord

MakeDraft = Callable[..., DraftRecord]
MakeUpload = Callable[..., CaseUpload]


def _draft(
    case_id: str = "case-1",
    *,
    organ: Organ = "breast",
    lesion: str = "present",
    pick: int = 0,
    version: str = "nano/1",
    boxes: tuple[LesionBox, ...] = (LesionBox(image_index=0, x=0.31, y=0.27, width=0.2, height=0.25),),
    qualified: bool = False,
) -> DraftRecord:
    model = BY_ORGAN[organ]
    values = {
        name: field_values(organ, name)[pick % len(field_values(organ, name))]
        for name in fields(organ)
        if lesion == "present" or name not in model.descriptors()
    }
    if qualified and lesion == "present":
        values |= {name: _qualifier(organ, name, pick) for name in qualifiers(organ)}
    entities = model.model_validate({**values, "organ": organ, "lesion": lesion})
    return DraftRecord(
        case_id=case_id,
        run_id="run",
        model_version=version,
        prompt_version="p1",
        config_hash="abc",
        status="draft",
        findings="An oval mass.\n\nIt has no echoes; size 12 mm.",
        impression="Simple cyst.",
        entities=entities_json(entities),
        boxes=boxes if lesion == "present" else (),
        confidence=0.75,
    )


def _qualifier(organ: Organ, name: str, pick: int) -> str:
    if name in numeric_fields(organ):
        low, high = number_range(organ, name)
        return str((low, high, low + 11, high - 11)[pick % 4])
    return field_values(organ, name)[pick % len(field_values(organ, name))]


@pytest.fixture(scope="session")
def draft() -> MakeDraft:
    """Makes drafts; ``pick`` chooses which value each field has, ``qualified`` gives side, place and size."""
    return _draft


@pytest.fixture(scope="session")
def case_upload(draft: MakeDraft) -> MakeUpload:
    """Makes uploads of one case with one image and a draft."""

    def make(case_id: str, **how: object) -> CaseUpload:
        images = ["s3://bucket/ws/images/ab/abcd.png"]
        return CaseUpload(
            {"case_id": case_id, "images": images, "organ_hint": "breast", "scanner": "Phantom"},
            prediction_of(draft(case_id, **how)),
        )

    return make


@pytest.fixture
def door(stack_labelstudio) -> Iterator[LabelStudioDoor]:
    """A door with small pages and batches, so that paging and batching take part."""
    config = LabelStudioConfig(url=stack_labelstudio.url, page_size=3, import_batch=4, overlap_s=0)
    with LabelStudioDoor(config, SecretStr(stack_labelstudio.api_key)) as opened:
        yield opened


@pytest.fixture
def title() -> str:
    """A project title nobody used before."""
    return f"test {secrets.token_hex(6)}"
