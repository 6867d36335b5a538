"""The records that cross stages, each with one Arrow schema. Those of the archive's objects and frames stand
in `sonoloop.platform.archive.rows`.

``CaseRecord`` (``cases/``), one row per case. ``images`` lists the key frames in reading order; an image's
position in that list is the ``image_index`` of a box. ``inputs_hash`` is over everything that the case was
made from, ``num_retryable`` counts its instances whose frames may be had another time; a case is
``withdrawn`` when the archive holds no instance of it any more, or none whose pixels may be shown.

``DraftRecord`` (``drafts/<run_id>/``), one row per case of the run: a draft or a rejection.

| column | dtype | meaning |
|---|---|---|
| case_id, run_id | string | the case, and the run that drafted it |
| model_version, prompt_version, config_hash | string | what wrote it |
| status | string | ``draft`` or ``rejected`` |
| findings, impression | string | the report's sections; null when rejected |
| entities | string | canonical JSON under the lexicon; null when rejected |
| boxes | list of struct | lesion boxes, fractions of their image |
| confidence | double | geometric mean of ``value_probabilities``, 0..1, as decoded (not calibrated) |
| value_probabilities | map<string, double> | entity field to its value's probability, 0..1; none if forced |
| report_score | double | geometric mean probability of the report's tokens, 0..1 |
| num_tokens | int32 | tokens generated for the case |
| stage, reason, detail, retryable | string, string, string, bool | why it was rejected; null for a draft |
| attempts | int32 | tries at this case by this model and prompt version, those of earlier runs included |
| inputs_hash | string | of the case as it was drafted |
| unit | int64 | unit of the run that drafted it: cases that one call of the engine took together |

Drafts written before a column was there read with null in it.

``ReviewRecord`` (``reviews/``), append-only: one row per (annotation id, updated_at).

``ConversationRecord`` (``imported/<name>/``), one row per conversation that people had and brought in:

| column | dtype | meaning |
|---|---|---|
| conversation_id | string | hash of its turns and images |
| source_id | string | keyed hash of the entry's own id; null where it has none |
| image_keys | list of string | workspace keys, one for each ``<image>`` in its texts, in order |
| turns | list of struct | role and text |
| group_key | string | what it is split by: keyed hash of its patient or group, else hash of its images |
| indexed_at | timestamp[us, UTC] | when it was imported |
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.columns import added_column
from sonoloop.platform.errors import Reason
from sonoloop.platform.lexicon import Entities, LesionBox, Organ, parse_entities

_BOX = pa.struct(
    [
        ("image_index", pa.int32()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("width", pa.float64()),
        ("height", pa.float64()),
    ]
)
_IMAGE = pa.struct(
    [
        ("image_key", pa.string()),
        ("instance_id", pa.string()),
        ("frame_index", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


Probability = Annotated[float, Field(ge=0, le=1)]
Escape = Literal["cannot-judge", "bad-image", "patient-data-visible"]
"""Why a reader has no answer to a case."""


class Record(BaseModel):
    """A frozen row; ``ARROW`` is its schema and names its columns in order."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_enum_values=True)
    ARROW: ClassVar[pa.Schema]

    def row(self) -> dict[str, Any]:
        """The row as plain values, columns in the order of ``ARROW``."""
        values = self.model_dump()
        return {name: values[name] for name in self.ARROW.names}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Build the record from a row of its table; columns of other tables are refused."""
        return cls.model_validate(row)

    @classmethod
    def table(cls, records: list[Self]) -> pa.Table:
        """A table of these records; an empty list gives an empty table with the schema."""
        return pa.Table.from_pylist([record.row() for record in records], schema=cls.ARROW)


class CaseImage(BaseModel):
    """One key frame of a case: where its pixels lie and which frame they came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image_key: str = Field(description="workspace key, images/ab/<sha256>.png")
    instance_id: str
    frame_index: int = Field(ge=0, description="counts from 0")
    width: int = Field(gt=0, description="pixels")
    height: int = Field(gt=0, description="pixels")


class CaseRecord(Record):
    """The unit that is drafted and reviewed: key frames of one study."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("case_id", pa.string()),
            ("patient_key", pa.string()),
            ("organ_hint", pa.string()),
            ("scanner", pa.string()),
            ("images", pa.list_(_IMAGE)),
            ("inputs_hash", pa.string()),
            ("num_retryable", pa.int32()),
            ("withdrawn", pa.bool_()),
            ("indexed_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    case_id: str
    patient_key: str = Field(description="keyed hash; splits are made by it")
    organ_hint: Organ | None = Field(description="an organ of the lexicon where the header names one")
    scanner: str | None = Field(description="manufacturer and model, as the header has them")
    images: tuple[CaseImage, ...]
    inputs_hash: str | None = None
    num_retryable: int = 0
    withdrawn: bool = False
    indexed_at: datetime


class DraftRecord(Record):
    """What one model version wrote for one case, or why it wrote nothing."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("case_id", pa.string()),
            ("run_id", pa.string()),
            ("model_version", pa.string()),
            ("prompt_version", pa.string()),
            ("config_hash", pa.string()),
            ("status", pa.string()),
            ("findings", pa.string()),
            ("impression", pa.string()),
            ("entities", pa.string()),
            ("boxes", pa.list_(_BOX)),
            ("confidence", pa.float64()),
            added_column("value_probabilities", pa.map_(pa.string(), pa.float64())),
            added_column("report_score", pa.float64()),
            ("num_tokens", pa.int32()),
            ("stage", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("retryable", pa.bool_()),
            added_column("attempts", pa.int32()),
            added_column("inputs_hash", pa.string()),
            added_column("unit", pa.int64()),
        ]
    )
    case_id: str
    run_id: str
    model_version: str = Field(description="<name>/<version>")
    prompt_version: str
    config_hash: str
    status: Literal["draft", "rejected"]
    findings: str | None = None
    impression: str | None = None
    entities: str | None = Field(default=None, description="canonical JSON, valid under the lexicon")
    boxes: tuple[LesionBox, ...] = ()
    confidence: float | None = Field(
        default=None, ge=0, le=1, description="geometric mean of value_probabilities, not calibrated"
    )
    value_probabilities: dict[str, Probability] = Field(
        default={}, description="entity field to the probability of its value among the admissible ones"
    )
    report_score: float | None = Field(
        default=None, ge=0, le=1, description="geometric mean probability of the report's tokens"
    )
    num_tokens: int | None = None
    stage: str | None = None
    reason: Reason | None = None
    detail: str | None = None
    retryable: bool | None = None
    attempts: int | None = None
    inputs_hash: str | None = None
    unit: int | None = None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """As `Record.from_row`; Arrow gives a map as a list of pairs, and older tables have none."""
        pairs = row.get("value_probabilities") or ()
        return super().from_row({**row, "value_probabilities": dict(pairs)})

    def parsed_entities(self) -> Entities:
        """The entities as a lexicon model; only for rows with ``status == "draft"``."""
        assert self.entities is not None, "a rejection has no entities"
        return parse_entities(self.entities)


class ReviewRecord(Record):
    """What a person made of a draft in Label Studio."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("review_id", pa.string()),
            ("annotation_id", pa.int64()),
            ("task_id", pa.int64()),
            ("case_id", pa.string()),
            ("model_version", pa.string()),
            ("reader", pa.string()),
            ("findings", pa.string()),
            ("impression", pa.string()),
            ("entities", pa.string()),
            ("boxes", pa.list_(_BOX)),
            ("origins", pa.map_(pa.string(), pa.string())),
            ("lead_time_s", pa.float64()),
            ("created_at", pa.timestamp("us", tz="UTC")),
            ("updated_at", pa.timestamp("us", tz="UTC")),
            added_column("escape", pa.string()),
            added_column("deleted", pa.bool_()),
            added_column("project", pa.string()),
            added_column("adjudicates", pa.bool_()),
        ]
    )
    review_id: str = Field(description="hash of annotation id, updated_at and deleted")
    annotation_id: int
    task_id: int
    case_id: str
    model_version: str | None = Field(description="of the draft it started from, null without one")
    reader: str = Field(description="pseudonym of the person")
    findings: str
    impression: str
    entities: str | None = Field(description="canonical JSON; null where the choices make no valid entities")
    boxes: tuple[LesionBox, ...]
    origins: dict[str, Literal["prediction", "prediction-changed", "manual", "missing"]] = Field(
        description="field name to how its value came about, as Label Studio tells it"
    )
    lead_time_s: float | None
    created_at: datetime
    updated_at: datetime = Field(description="of the annotation; of the pull that missed it, where deleted")
    escape: Escape | None = Field(default=None, description="why the reader gave no answer to the case")
    deleted: bool = Field(default=False, description="the annotation is gone from Label Studio")
    project: str | None = Field(default=None, description="`tasks.project_key` of where it was made")
    adjudicates: bool = Field(default=False, description="it settles what earlier readers disagreed on")

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """As `Record.from_row`; Arrow gives a map as a list of pairs, and older tables lack a column."""
        flags = {name: bool(row.get(name)) for name in ("deleted", "adjudicates")}
        return super().from_row({**row, **flags, "origins": dict(row["origins"])})

    def parsed_entities(self) -> Entities | None:
        """The entities as a lexicon model, or ``None`` where the review has none."""
        return None if self.entities is None else parse_entities(self.entities)


class Turn(BaseModel):
    """What one side says in a conversation; every ``<image>`` in the text stands for an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["system", "user", "assistant"]
    text: str


class ConversationRecord(Record):
    """A conversation about images that people had before."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("conversation_id", pa.string()),
            ("source_id", pa.string()),
            ("image_keys", pa.list_(pa.string())),
            ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
            ("group_key", pa.string()),
            ("indexed_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    conversation_id: str
    source_id: str | None = Field(description="keyed hash of the id that its entry had")
    image_keys: tuple[str, ...] = Field(description="workspace keys, in the order of the placeholders")
    turns: tuple[Turn, ...]
    group_key: str = Field(description="splits are made by it; where a patient is named, as of cases")
    indexed_at: datetime


def content_id(*parts: str | bytes, length: int = 24) -> str:
    """Hex id derived from content: SHA-256 over length-prefixed parts, cut to ``length`` digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:length]
