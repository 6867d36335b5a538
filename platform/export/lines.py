"""One JSON line for each case, under a schema that is written beside it.

| key | meaning |
|---|---|
| schema_version | ``1``; grows when a key changes its meaning or goes |
| case_id, patient_key | keyed hashes of study and patient |
| organ | of the entities, else of the header's hint; null where neither names one |
| status | ``reviewed``: a person stands behind it; ``draft``: a model alone |
| reader | pseudonym of the person; null for a draft |
| model_version | what drafted it; null for a review that started from nothing |
| written_at | when it was reviewed or drafted, UTC |
| findings, impression | texts; people may have typed anything into a review's |
| entities | the lexicon's fields of this organ; null where the review has none |
| images | key frames: key in the workspace, instance, frame (counts from 0), size in pixels |
| boxes | lesion boxes: place in ``images`` (counts from 0) and edges in pixels, right and bottom outside |
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sonoloop.platform.export.results import Result
from sonoloop.platform.lexicon import LesionBox, Organ
from sonoloop.platform.records import CaseImage


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PixelBox(_Line):
    """A lesion's box, pixels, origin top left."""

    image_index: int
    left: float
    top: float
    right: float
    bottom: float


class CaseLine(_Line):
    """A case as one line."""

    schema_version: Literal["1"]
    case_id: str
    patient_key: str
    organ: Organ | None
    status: Literal["reviewed", "draft"]
    reader: str | None
    model_version: str | None
    written_at: datetime
    findings: str
    impression: str
    entities: dict[str, str | int] | None
    images: tuple[CaseImage, ...]
    boxes: tuple[PixelBox, ...]


def case_line(result: Result) -> str:
    """The line of a case, without its line break."""
    line = CaseLine(
        schema_version="1",
        case_id=result.case.case_id,
        patient_key=result.case.patient_key,
        organ=result.organ,
        status=result.status,
        reader=result.reader,
        model_version=result.model_version,
        written_at=result.written_at,
        findings=result.findings,
        impression=result.impression,
        entities=None if result.entities_json is None else json.loads(result.entities_json),
        images=result.case.images,
        boxes=tuple(_in_pixels(box, result.case.images[box.image_index]) for box in result.boxes),
    )
    return line.model_dump_json()


def line_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a line."""
    schema = CaseLine.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _in_pixels(box: LesionBox, image: CaseImage) -> PixelBox:
    return PixelBox(
        image_index=box.image_index,
        left=round(box.x * image.width, 3),
        top=round(box.y * image.height, 3),
        right=round(min(box.x + box.width, 1) * image.width, 3),
        bottom=round(min(box.y + box.height, 1) * image.height, 3),
    )
