"""How often each reader is right, on cases whose truth is known without that reader."""

from __future__ import annotations

from collections import defaultdict

from pydantic import BaseModel, ConfigDict

from sonoloop.jobs.reporting.evidence import Evidence, Reading
from sonoloop.model.intervals import Estimate, estimate
from sonoloop.platform.lexicon import qualifiers


class ReaderQuality(BaseModel):
    """One reader; ``field`` is ``None`` for all fields together, the mean of each case's share."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reader: str
    field: str | None
    right: Estimate


def measure_readers(evidence: Evidence) -> tuple[ReaderQuality, ...]:
    """Share of choices that are the truth's, by reader and field; readers without a known case have no row.

    A field that the truth has and the reader does not, since organ or lesion differ, counts as wrong.
    """
    right: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for found in evidence.answers():
        for reading in found:
            truth = evidence.truth_for(reading)
            if truth is None:
                continue
            hits = rightness(reading, truth)
            right[reading.review.reader, None].append(sum(hits.values()) / len(hits))
            for field, hit in hits.items():
                right[reading.review.reader, field].append(float(hit))
    rows = []
    for (reader, name), values in sorted(right.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        share = estimate(values)
        assert share is not None, "a reader stands here for the cases there are"
        rows.append(ReaderQuality(reader=reader, field=name, right=share))
    return tuple(rows)


def rightness(reading: Reading, truth: Reading) -> dict[str, bool]:
    """Whether the reader chose what is true, for each field that the truth has.

    A qualifier that the reader left out is no error; all other fields are asked for.
    """
    said, optional = reading.values, _qualifiers(truth)
    return {
        name: said.get(name) == value
        for name, value in truth.values.items()
        if name in said or name not in optional
    }


def _qualifiers(reading: Reading) -> frozenset[str]:
    assert reading.entities is not None, "a truth has entities"
    organ = reading.entities.organ
    return frozenset(f"{organ}.{name}" for name in qualifiers(organ))
