"""How far readers agree on numbers, such as a lesion's size, over cases that two or more of them measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.reporting.evidence import Reading
from sonoloop.model.number_agreement import PairedNumbers, SharedNumbers, paired_numbers, shared_numbers


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FieldNumbers(_Figures):
    """One numeric field, whoever measured."""

    field: str = Field(description="its name ends in its unit")
    figures: SharedNumbers


class PairNumbers(_Figures):
    """Two readers and one numeric field."""

    readers: tuple[str, str]
    field: str = Field(description="its name ends in its unit")
    figures: PairedNumbers


class NumberAgreement(_Figures):
    """All of it; empty where no case was measured twice."""

    fields: tuple[FieldNumbers, ...]
    pairs: tuple[PairNumbers, ...]


def measure_numbers(cases: Sequence[Sequence[Reading]]) -> NumberAgreement:
    """Figures over the readings of each case; a reader who left a number out did not measure it."""
    of_field: dict[str, list[list[float]]] = defaultdict(list)
    of_pair: dict[tuple[tuple[str, str], str], list[tuple[float, float]]] = defaultdict(list)
    for found in cases:
        measured: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for reading in sorted(found, key=lambda one: one.review.reader):
            for name, number in reading.numbers.items():
                measured[name].append((reading.review.reader, number))
        for name, by_reader in measured.items():
            if len(by_reader) > 1:
                of_field[name].append([number for _, number in by_reader])
            for (one, first), (other, second) in combinations(by_reader, 2):
                of_pair[(one, other), name].append((first, second))
    return NumberAgreement(
        fields=tuple(
            FieldNumbers(field=name, figures=shared_numbers(said)) for name, said in sorted(of_field.items())
        ),
        pairs=tuple(
            PairNumbers(readers=readers, field=name, figures=paired_numbers(said))
            for (readers, name), said in sorted(of_pair.items())
        ),
    )
