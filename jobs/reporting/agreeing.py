"""How far readers agree on the cases that two or more of them read, by field and by pair of readers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sonoloop.jobs.reporting.evidence import Evidence, Reading
from sonoloop.jobs.reporting.measuring import NumberAgreement, measure_numbers
from sonoloop.model.agreement import (
    agreeing_share,
    box_agreement,
    cohen_kappa,
    fleiss_kappa,
    graded_field,
    krippendorff_alpha,
    text_distance,
)
from sonoloop.model.intervals import Estimate, estimate
from sonoloop.model.prompts import format_report


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FieldAgreement(_Figures):
    """One field over the cases in which two or more readers were asked for it."""

    field: str
    level: Literal["nominal", "ordinal"]
    agreement: Estimate
    fleiss_kappa: Estimate | None
    krippendorff_alpha: Estimate | None


class PairAgreement(_Figures):
    """Two readers, and one field of the cases that both read."""

    readers: tuple[str, str]
    field: str
    num_cases: int
    agreement: float
    cohen_kappa: Estimate | None


class Agreement(_Figures):
    """All of it; estimates are ``None`` where no case was read twice."""

    num_cases: int
    num_disputed: int
    fields: tuple[FieldAgreement, ...]
    pairs: tuple[PairAgreement, ...]
    numbers: NumberAgreement
    box_iou: Estimate | None
    text_distance: Estimate | None


def measure_agreement(evidence: Evidence, *, num_disputed: int) -> Agreement:
    """Figures over the cases that two or more readers answered; adjudications do not count as readings."""
    cases = [found for found in evidence.answers() if len(found) > 1]
    pairs = [list(combinations(found, 2)) for found in cases]
    boxes = [
        [iou for a, b in of_case if (iou := box_agreement(a.review.boxes, b.review.boxes)) is not None]
        for of_case in pairs
    ]
    texts = [[text_distance(_report(a), _report(b)) for a, b in of_case] for of_case in pairs]
    return Agreement(
        num_cases=len(cases),
        num_disputed=num_disputed,
        fields=tuple(_fields(cases)),
        pairs=tuple(_pairs(cases)),
        numbers=measure_numbers(cases),
        box_iou=estimate([sum(values) / len(values) for values in boxes if values]),
        text_distance=estimate([sum(values) / len(values) for values in texts]),
    )


def _fields(cases: list[list[Reading]]) -> Iterator[FieldAgreement]:
    said: dict[str, list[list[str]]] = defaultdict(list)
    for found in cases:
        of_case: dict[str, list[str]] = defaultdict(list)
        for reading in found:
            for name, value in reading.values.items():
                of_case[name].append(value)
        for name, values in of_case.items():
            if len(values) > 1:
                said[name].append(values)
    for name, readings in sorted(said.items()):
        agreement = estimate([agreeing_share(values) for values in readings])
        assert agreement is not None, "a field stands here for the cases it has"
        order = graded_field(name)
        yield FieldAgreement(
            field=name,
            level="ordinal" if order else "nominal",
            agreement=agreement,
            fleiss_kappa=fleiss_kappa(readings),
            krippendorff_alpha=krippendorff_alpha(readings, order),
        )


def _pairs(cases: list[list[Reading]]) -> Iterator[PairAgreement]:
    said: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for found in cases:
        for one, other in combinations(sorted(found, key=lambda reading: reading.review.reader), 2):
            mine, theirs = one.values, other.values
            for name in mine.keys() & theirs.keys():
                key = (one.review.reader, other.review.reader, name)
                said[key].append((mine[name], theirs[name]))
    for (first, second, name), values in sorted(said.items()):
        yield PairAgreement(
            readers=(first, second),
            field=name,
            num_cases=len(values),
            agreement=sum(a == b for a, b in values) / len(values),
            cohen_kappa=cohen_kappa(values),
        )


def _report(reading: Reading) -> str:
    return format_report(reading.review.findings, reading.review.impression)
