"""The result of a case, reviewed or drafted; and why a case or an instance could not be exported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.lexicon import Entities, LesionBox, Organ, parse_entities
from sonoloop.platform.records import CaseRecord, DraftRecord, ReviewRecord, content_id


class Rejection(BaseModel):
    """A line of ``rejected.jsonl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unit: Literal["case", "instance"]
    id: str = Field(description="case_id or instance_id")
    reason: Reason
    detail: str
    retryable: bool

    @classmethod
    def of(cls, unit: Literal["case", "instance"], identity: str, error: RejectedError) -> Rejection:
        """The line that an error makes."""
        return cls(
            unit=unit, id=identity, reason=error.reason, detail=error.detail, retryable=error.retryable
        )


class Result(BaseModel):
    """What is said about a case: by a person (``reviewed``), or by a model alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    case: CaseRecord
    status: Literal["reviewed", "draft"]
    findings: str
    impression: str
    entities_json: str | None = Field(description="canonical JSON under the lexicon")
    boxes: tuple[LesionBox, ...]
    model_version: str | None = Field(description="of the draft, or of the one that the review started from")
    reader: str | None = Field(description="pseudonym of the person")
    written_at: datetime

    @property
    def is_reviewed(self) -> bool:
        """Whether a person stands behind it."""
        return self.status == "reviewed"

    @property
    def entities(self) -> Entities | None:
        """The entities as a lexicon model, or ``None`` where there are none."""
        return None if self.entities_json is None else parse_entities(self.entities_json)

    @property
    def organ(self) -> Organ | None:
        """The organ that the entities name, else the one that the header hints at."""
        return self.case.organ_hint if self.entities is None else self.entities.organ

    @property
    def content_id(self) -> str:
        """The same for the same content, another for any other."""
        return content_id(self.model_dump_json())


def result_of(
    case: CaseRecord,
    review: ReviewRecord | None,
    draft: DraftRecord | None,
    *,
    drafted_at: Mapping[str, datetime],
    reviewed_only: bool,
) -> Result:
    """The review where there is one, else the draft.

    Args:
        case: The case.
        review: The review that counts.
        draft: The draft of the model that drafts now.
        drafted_at: When each run began.
        reviewed_only: Refuse drafts.

    Raises:
        RejectedError: ``NOT_REVIEWED`` or ``NO_RESULT``.
    """
    if review is not None:
        return _result(case, "reviewed", review, review.reader, review.updated_at)
    if draft is None or draft.status == "rejected":
        raise RejectedError(Reason.NO_RESULT, "the case has neither a review nor a draft")
    if reviewed_only:
        raise RejectedError(Reason.NOT_REVIEWED, "the case has a draft that nobody reviewed yet")
    return _result(case, "draft", draft, None, drafted_at.get(draft.run_id, case.indexed_at))


def _result(
    case: CaseRecord,
    status: Literal["reviewed", "draft"],
    row: ReviewRecord | DraftRecord,
    reader: str | None,
    written_at: datetime,
) -> Result:
    return Result(
        case=case,
        status=status,
        findings=row.findings or "",
        impression=row.impression or "",
        entities_json=row.entities,
        boxes=_possible(row.boxes, len(case.images)),
        model_version=row.model_version,
        reader=reader,
        written_at=written_at,
    )


def _possible(boxes: Iterable[LesionBox], num_images: int) -> tuple[LesionBox, ...]:
    """Boxes on images that the case has; a case that was indexed again may have fewer."""
    return tuple(box for box in boxes if box.image_index < num_images)
