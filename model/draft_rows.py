"""From what an engine made of a case to the columns of its `DraftRecord`."""

from __future__ import annotations

from typing import Any

from sonoloop.model.engine import Draft
from sonoloop.platform.errors import RejectedError
from sonoloop.platform.lexicon import entities_json


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
