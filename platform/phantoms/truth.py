"""What is true about a phantom study; whoever builds the archive writes it apart from it.

| column | dtype | meaning |
|---|---|---|
| study_uid | string | DICOM Study Instance UID |
| organ | string | an organ of the lexicon |
| findings, impression | string | the true report, without headings |
| entities | string | canonical JSON under the lexicon |
| boxes | list of struct | the lesion on every frame: sop_uid, frame_index (from 0), box as fractions |
"""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.lexicon import Entities, Organ, parse_entities
from sonoloop.platform.records import Record

_BOX = pa.struct(
    [
        ("sop_uid", pa.string()),
        ("frame_index", pa.int32()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("width", pa.float64()),
        ("height", pa.float64()),
    ]
)


class TruthBox(BaseModel):
    """The lesion's box on one frame of one instance."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sop_uid: str = Field(description="DICOM SOP Instance UID")
    frame_index: int = Field(ge=0, description="counts from 0")
    x: float = Field(ge=0, le=1, description="left edge, fraction of the frame's width")
    y: float = Field(ge=0, le=1, description="top edge, fraction of the frame's height, banner included")
    width: float = Field(gt=0, le=1, description="fraction of the frame's width")
    height: float = Field(gt=0, le=1, description="fraction of the frame's height")


class TruthRecord(Record):
    """The truth about one study."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("study_uid", pa.string()),
            ("organ", pa.string()),
            ("findings", pa.string()),
            ("impression", pa.string()),
            ("entities", pa.string()),
            ("boxes", pa.list_(_BOX)),
        ]
    )
    study_uid: str
    organ: Organ
    findings: str
    impression: str
    entities: str = Field(description="canonical JSON, valid under the lexicon")
    boxes: tuple[TruthBox, ...] = Field(description="one per frame of every instance; none without a lesion")

    def parsed_entities(self) -> Entities:
        """The entities as a lexicon model."""
        return parse_entities(self.entities)
