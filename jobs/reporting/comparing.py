"""Readers with drafts beside readers without: what drafts save, and whether they pull readers along.

A case is a control where the ledger of tasks says so and nothing was drafted on its page. Whether a reader
was right, and whether a wrong draft was followed, is asked only where the truth is known without the reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.reporting.evidence import Evidence, Reading, choices
from sonoloop.jobs.reporting.helping import seconds_of
from sonoloop.jobs.reporting.quality import rightness
from sonoloop.model.intervals import Estimate, Statistic, difference, estimate


class Contrast(BaseModel):
    """One figure with drafts and without, and how much larger it is with them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    with_drafts: Estimate | None
    without: Estimate | None
    difference: Estimate | None


class Comparison(BaseModel):
    """With drafts beside without."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model_version: str | None = Field(description="whose drafts; the one most readings started from")
    seconds: Contrast = Field(description="median time on the page, where it can be believed")
    right: Contrast = Field(description="mean share of choices that are the truth's")
    followed: Contrast = Field(
        description="mean share of wrongly drafted choices that the reader has as well; by chance, without"
    )


def compare_with_control(evidence: Evidence) -> Comparison:
    """Readings that started from the most used version's drafts, beside those on control tasks."""
    answers = [reading for found in evidence.answers() for reading in found]
    versions = Counter(r.review.model_version for r in answers if r.review.model_version is not None)
    version = versions.most_common(1)[0][0] if versions else None
    drafted = [r for r in answers if version is not None and r.review.model_version == version]
    control = [r for r in answers if r.purpose == "control" and r.review.model_version is None]
    return Comparison(
        model_version=version,
        seconds=_contrast(seconds_of(drafted), seconds_of(control), "median"),
        right=_contrast(_right(evidence, drafted), _right(evidence, control)),
        followed=_contrast(_followed(evidence, drafted, version), _followed(evidence, control, version)),
    )


def _contrast(one: Sequence[float], other: Sequence[float], statistic: Statistic = "mean") -> Contrast:
    return Contrast(
        with_drafts=estimate(one, statistic),
        without=estimate(other, statistic),
        difference=difference(one, other, statistic),
    )


def _right(evidence: Evidence, found: Sequence[Reading]) -> list[float]:
    """Of each reading whose truth is known, the share of right choices."""
    hits = [
        list(rightness(reading, truth).values())
        for reading in found
        if (truth := evidence.truth_for(reading)) is not None
    ]
    return [sum(of_case) / len(of_case) for of_case in hits]


def _followed(evidence: Evidence, found: Sequence[Reading], version: str | None) -> list[float]:
    """Of each reading whose draft is wrong somewhere, the share of the wrong choices that it has too."""
    shares = []
    for reading in found:
        truth = evidence.truth_for(reading)
        draft = evidence.drafts.get((reading.review.case_id, version or ""))
        if truth is None or draft is None:
            continue
        drafted, true, said = choices(draft.parsed_entities()), truth.values, reading.values
        wrong = [name for name, value in drafted.items() if name in true and true[name] != value]
        if wrong:
            shares.append(sum(said.get(name) == drafted[name] for name in wrong) / len(wrong))
    return shares
