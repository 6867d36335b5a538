"""What drafts are worth to the people who correct them, by model version and by organ.

| figure | what it is |
|---|---|
| untouched | share of a page's filled fields that still say what the draft said, as Label Studio tells it |
| edits | fields that the reader changed, added or emptied |
| whole | share of drafts submitted without any such edit |
| text distance | word-level Levenshtein distance between drafted and submitted report, 0..1 |
| seconds | median time on the page, without readings too short to be believed, see `haste` |
| bins | of the values drafted with a probability in the bin, the share that readers kept |

A reading on an adjudication task, one without a draft and an escape do not count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.reporting.evidence import Evidence, Reading
from sonoloop.jobs.reporting.haste import is_hasty
from sonoloop.model.agreement import text_distance
from sonoloop.model.calibration import Calibrator, expected_calibration_error, judged_values
from sonoloop.model.intervals import Estimate, estimate
from sonoloop.model.prompts import format_report
from sonoloop.platform.labelstudio.annotations import BOXES
from sonoloop.platform.labelstudio.page import FINDINGS, IMPRESSION
from sonoloop.platform.records import DraftRecord

NUM_BINS = 10


class ConfidenceBin(BaseModel):
    """Drafted values whose probability lies above ``low`` and up to ``high``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float
    high: float
    mean_probability: float
    kept: Estimate


class Confidence(BaseModel):
    """How sure a model said that it was, against what readers kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    calibrated: bool
    num_values: int
    calibration_error: float
    bins: tuple[ConfidenceBin, ...]


class Help(BaseModel):
    """Figures over the readings that started from a version's drafts; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model_version: str
    organ: str | None = Field(description="the reader's; null for all together")
    num_readings: int
    untouched: Estimate | None
    edits: Estimate | None
    whole: Estimate | None
    text_distance: Estimate | None
    seconds: Estimate | None


class VersionHelp(BaseModel):
    """A model version: all its readings, those of each organ, and its confidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    total: Help
    organs: tuple[Help, ...]
    confidence: tuple[Confidence, ...]


def measure_help(
    evidence: Evidence, calibrator_of: Callable[[str], Calibrator | None]
) -> tuple[VersionHelp, ...]:
    """One entry for each model version whose drafts people started from.

    Args:
        evidence: What was said.
        calibrator_of: A version's calibrator, ``None`` where it has none.
    """
    by_version: dict[str, list[Reading]] = defaultdict(list)
    for found in evidence.answers():
        for reading in found:
            if reading.review.model_version is not None:
                by_version[reading.review.model_version].append(reading)
    return tuple(
        VersionHelp(
            total=_help(evidence, version, None, found),
            organs=tuple(_by_organ(evidence, version, found)),
            confidence=tuple(_confidence(evidence, version, found, calibrator_of(version))),
        )
        for version, found in sorted(by_version.items())
    )


def _by_organ(evidence: Evidence, version: str, found: Sequence[Reading]) -> Iterator[Help]:
    organs: dict[str, list[Reading]] = defaultdict(list)
    for reading in found:
        if reading.entities is not None:
            organs[reading.entities.organ].append(reading)
    for organ, of_organ in sorted(organs.items()):
        yield _help(evidence, version, organ, of_organ)


def _help(evidence: Evidence, version: str, organ: str | None, found: Sequence[Reading]) -> Help:
    origins = [Counter(reading.review.origins.values()) for reading in found]
    kept = [of_page["prediction"] for of_page in origins]
    drafts = [evidence.drafts.get((reading.review.case_id, version)) for reading in found]
    edits = [
        of_page["prediction-changed"] + of_page["manual"] + _num_emptied(reading, draft)
        for of_page, reading, draft in zip(origins, found, drafts, strict=True)
    ]
    texts = [_text_distance(reading, draft) for reading, draft in zip(found, drafts, strict=True)]
    return Help(
        model_version=version,
        organ=organ,
        num_readings=len(found),
        untouched=estimate([k / (k + e) for k, e in zip(kept, edits, strict=True) if k + e]),
        edits=estimate(edits),
        whole=estimate([float(not e) for e in edits]),
        text_distance=estimate([distance for distance in texts if distance is not None]),
        seconds=estimate(seconds_of(found), "median"),
    )


def _num_emptied(reading: Reading, draft: DraftRecord | None) -> int:
    """Fields that the draft filled and the reader left empty: Label Studio keeps no trace of them."""
    if draft is None:
        return 0
    texts = ((FINDINGS, draft.findings), (IMPRESSION, draft.impression))
    drafted = {name for name, text in texts if text} | ({BOXES} if draft.boxes else set())
    entities = draft.parsed_entities()
    if reading.entities is not None and reading.entities.organ == entities.organ:
        drafted |= entities.flat().keys()
    return sum(reading.review.origins.get(name) == "missing" for name in drafted)


def seconds_of(found: Sequence[Reading]) -> list[float]:
    """The times on the page that Label Studio measured, as far as they can be believed."""
    times = [r.review.lead_time_s for r in found if not is_hasty(r.review)]
    return [seconds for seconds in times if seconds is not None]


def _text_distance(reading: Reading, draft: DraftRecord | None) -> float | None:
    if draft is None:
        return None
    drafted = format_report(draft.findings or "", draft.impression or "")
    return text_distance(drafted, format_report(reading.review.findings, reading.review.impression))


def _confidence(
    evidence: Evidence, version: str, found: Sequence[Reading], calibrator: Calibrator | None
) -> Iterator[Confidence]:
    """As decoded, and calibrated where there is a calibrator."""
    values = [
        value
        for reading in found
        if (draft := evidence.drafts.get((reading.review.case_id, version))) is not None
        and reading.entities is not None
        for value in judged_values(draft, reading.entities, group=reading.review.case_id)
    ]
    if not values:
        return
    kept = [value.kept for value in values]
    yield _binned([value.probability for value in values], kept, calibrated=False)
    if calibrator is not None:
        yield _binned([calibrator(v.organ, v.probability) for v in values], kept, calibrated=True)


def _binned(probabilities: Sequence[float], kept: Sequence[bool], *, calibrated: bool) -> Confidence:
    places = np.clip(np.ceil(np.asarray(probabilities) * NUM_BINS) - 1, 0, NUM_BINS - 1).astype(int)
    bins = []
    for place in sorted(set(places.tolist())):
        inside = np.flatnonzero(places == place)
        share = estimate([float(kept[i]) for i in inside])
        assert share is not None, "a bin stands here for the values it holds"
        mean = sum(probabilities[i] for i in inside) / len(inside)
        low, high = place / NUM_BINS, (place + 1) / NUM_BINS
        bins.append(ConfidenceBin(low=low, high=high, mean_probability=mean, kept=share))
    return Confidence(
        calibrated=calibrated,
        num_values=len(kept),
        calibration_error=expected_calibration_error(probabilities, kept),
        bins=tuple(bins),
    )
