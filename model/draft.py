"""A draft as an engine gives it, and as columns of its `DraftRecord`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sonoloop.model.generation import geometric_mean
from sonoloop.platform.errors import RejectedError
from sonoloop.platform.lexicon import Entities, LesionBox, entities_json


@dataclass(frozen=True, slots=True)
class Draft:
    """What a model wrote for one case, parsed.

    Attributes:
        findings: The report's first section.
        impression: Its second section.
        entities: Valid under the lexicon.
        boxes: Lesion boxes, fractions of their image; indices count the case's own images.
        value_probabilities: Entity field -> probability of its value among the admissible ones, 0..1,
            uncalibrated; fields that the grammar left no choice about are absent.
        report_score: Geometric mean probability of the report's tokens, 0..1.
        num_tokens: Tokens generated for this case, ends included.
    """

    findings: str
    impression: str
    entities: Entities
    boxes: tuple[LesionBox, ...]
    value_probabilities: Mapping[str, float]
    report_score: float
    num_tokens: int

    @property
    def confidence(self) -> float:
        """Geometric mean of the value probabilities, 0..1; 1 where nothing was a choice."""
        return geometric_mean(self.value_probabilities.values())


def draft_columns(outcome: Draft | RejectedError, *, stage: str) -> dict[str, Any]:
    """The columns of `DraftRecord` that say what came out.

    Args:
        outcome: A draft, or why there is none.
        stage: Where it was rejected.
    """
    if isinstance(outcome, RejectedError):
        return {
            "status": "rejected",
            "stage": stage,
            "reason": outcome.reason,
            "detail": outcome.detail,
            "retryable": outcome.retryable,
        }
    return {
        "status": "draft",
        "findings": outcome.findings,
        "impression": outcome.impression,
        "entities": entities_json(outcome.entities),
        "boxes": tuple(outcome.boxes),
        "confidence": outcome.confidence,
        "value_probabilities": dict(outcome.value_probabilities),
        "report_score": outcome.report_score,
        "num_tokens": outcome.num_tokens,
    }
