"""Readings that took no time: a submit key that is held submits the tasks that follow unseen.

Label Studio measures the time on the page. Nobody sees a picture, reads a report and judges in less than a
second; such readings are counted by reader, and times on the page are given without them.
"""

from __future__ import annotations

from collections import defaultdict

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.reporting.evidence import Evidence
from sonoloop.model.intervals import Estimate, estimate
from sonoloop.platform.records import ReviewRecord

SHORTEST_S = 1.0
"""A shorter time on the page is not believed: key repeat of browsers is 10 to 30 keys a second."""


class Haste(BaseModel):
    """One reader with at least one reading that is not believed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reader: str
    num_hasty: int
    share: Estimate = Field(description="of the reader's answers whose time was measured")


def is_hasty(review: ReviewRecord) -> bool:
    """Whether the time on the page was measured and is too short to have seen it."""
    return review.lead_time_s is not None and review.lead_time_s < SHORTEST_S


def measure_haste(evidence: Evidence) -> tuple[Haste, ...]:
    """Readers with readings that are not believed, those with most first; escapes do not count."""
    hasty: dict[str, list[float]] = defaultdict(list)
    for found in evidence.cases.values():
        for review in (reading.review for reading in found):
            if review.escape is None and review.lead_time_s is not None:
                hasty[review.reader].append(float(is_hasty(review)))
    rows = []
    for reader, values in hasty.items():
        share = estimate(values)
        assert share is not None, "a reader stands here for the readings there are"
        if any(values):
            rows.append(Haste(reader=reader, num_hasty=int(sum(values)), share=share))
    return tuple(sorted(rows, key=lambda one: (-one.num_hasty, one.reader)))
