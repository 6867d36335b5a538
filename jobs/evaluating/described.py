"""Reviews and drafts as the metrics take them."""

from __future__ import annotations

from sonoloop.model.metrics import Described
from sonoloop.platform.records import DraftRecord, ReviewRecord


def described_review(review: ReviewRecord) -> Described:
    """A review as a reference for the metrics."""
    return Described(review.findings, review.impression, review.parsed_entities(), review.boxes)


def described_draft(draft: DraftRecord | None) -> Described | None:
    """A draft as the metrics take it; ``None`` for a missing one and for a rejection."""
    if draft is None or draft.status != "draft":
        return None
    return Described(draft.findings or "", draft.impression or "", draft.parsed_entities(), draft.boxes)
