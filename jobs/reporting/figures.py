"""The whole report as one record, and how it is made of the workspace."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.reporting.agreeing import Agreement, measure_agreement
from sonoloop.jobs.reporting.comparing import Comparison, compare_with_control
from sonoloop.jobs.reporting.evidence import Evidence, read_evidence
from sonoloop.jobs.reporting.haste import Haste, measure_haste
from sonoloop.jobs.reporting.helping import VersionHelp, measure_help
from sonoloop.jobs.reporting.quality import ReaderQuality, measure_readers
from sonoloop.jobs.reporting.story import Story
from sonoloop.model.calibration import read_calibrator
from sonoloop.platform.tables import disputed_ids
from sonoloop.platform.workspace import Store


class Report(BaseModel):
    """How readers agree, how good they are, and what drafts are worth to them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    made_at: datetime
    num_cases: int = Field(description="cases that somebody answered or gave up")
    num_readings: int
    num_readers: int
    escapes: dict[str, int]
    help: tuple[VersionHelp, ...]
    comparison: Comparison
    agreement: Agreement
    readers: tuple[ReaderQuality, ...]
    hasty: tuple[Haste, ...] = Field(description="readers with readings too short to have seen the page")
    story: Story | None = Field(default=None, description="of the whole loop, where it was read")


def make_report(workspace: Store, *, prompt_version: str, evidence: Evidence | None = None) -> Report:
    """All figures about drafts and readers.

    Args:
        workspace: Where reviews, drafts, tasks and models lie.
        prompt_version: Whose calibrators are taken.
        evidence: What was said, where it was read already.

    Raises:
        StorageError: the workspace cannot be read.
    """
    evidence = evidence or read_evidence(workspace)
    said = [reading.review for found in evidence.cases.values() for reading in found]
    return Report(
        made_at=datetime.now(UTC),
        num_cases=len(evidence.cases),
        num_readings=len(said),
        num_readers=len({review.reader for review in said}),
        escapes=dict(Counter(review.escape for review in said if review.escape is not None)),
        help=measure_help(evidence, lambda version: read_calibrator(workspace, version, prompt_version)),
        comparison=compare_with_control(evidence),
        agreement=measure_agreement(evidence, num_disputed=len(disputed_ids(workspace))),
        readers=measure_readers(evidence),
        hasty=measure_haste(evidence),
    )
