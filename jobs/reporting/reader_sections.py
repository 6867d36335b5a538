"""The report's tables about readers: how far they agree, how often they are right, who was in haste."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from sonoloop.jobs.reporting.agreeing import PairAgreement
from sonoloop.jobs.reporting.figures import Report
from sonoloop.jobs.reporting.haste import SHORTEST_S
from sonoloop.jobs.reporting.measuring import PairNumbers
from sonoloop.jobs.reporting.section import READER_DIGITS, Section, cell, number, size


def reader_sections(report: Report) -> list[Section]:
    """Tables about readers, those without rows too."""
    return [
        _fields(report),
        _numbers(report),
        _pairs(report),
        _pair_fields(report),
        _readers(report),
        _reader_fields(report),
        _hasty(report),
    ]


def _fields(report: Report) -> Section:
    found = report.agreement
    rows = [
        (
            one.field,
            one.level,
            size(one.agreement),
            cell(one.agreement),
            size(one.fleiss_kappa),
            cell(one.fleiss_kappa),
            size(one.krippendorff_alpha),
            cell(one.krippendorff_alpha),
        )
        for one in found.fields
    ]
    return Section(
        "agreement",
        f"How far readers agree: {found.num_cases} cases read twice or more, {found.num_disputed} disputed",
        f"Box IoU {cell(found.box_iou)}; text distance {cell(found.text_distance)}. No kappa or alpha where "
        "all said the same throughout. An interval is drawn over cases; it is a point where all agree on "
        "every case, however few those are.",
        ("field", "level", "n", "agreement", "n", "Fleiss' kappa", "n", "Krippendorff's alpha"),
        tuple(rows),
    )


def _pairs(report: Report) -> Section:
    return Section(
        "pairs",
        "Pairs of readers",
        "Cohen's kappa is the mean over the fields where there is one.",
        ("readers", "most cases in a field", "fields", "agreement", "Cohen's kappa"),
        tuple(_pair_rows(report.agreement.pairs)),
    )


def _pair_rows(pairs: Iterable[PairAgreement]) -> Iterator[tuple[str, ...]]:
    by_pair: dict[tuple[str, str], list[PairAgreement]] = defaultdict(list)
    for one in pairs:
        by_pair[one.readers].append(one)
    for readers, found in by_pair.items():
        kappas = [one.cohen_kappa.value for one in found if one.cohen_kappa is not None]
        num_values = sum(one.num_cases for one in found)
        yield (
            _pair(readers),
            str(max(one.num_cases for one in found)),
            str(len(found)),
            f"{sum(one.agreement * one.num_cases for one in found) / num_values:.2f}",
            number(sum(kappas) / len(kappas) if kappas else None),
        )


def _pair_fields(report: Report) -> Section:
    rows = [
        (_pair(one.readers), one.field, str(one.num_cases), number(one.agreement), cell(one.cohen_kappa))
        for one in report.agreement.pairs
    ]
    return Section(
        "pair fields",
        "Pairs of readers by field",
        "Over the cases in which both were asked for the field.",
        ("readers", "field", "n", "agreement", "Cohen's kappa"),
        tuple(rows),
        is_long=True,
    )


def _pair(readers: tuple[str, str]) -> str:
    return " ".join(reader[:READER_DIGITS] for reader in readers)


def _readers(report: Report) -> Section:
    return Section(
        "readers",
        "How often readers are right, where the truth is known without them",
        "Mean share of a case's choices. Gold tasks, and cases that somebody else adjudicated: these are the "
        "hard ones.",
        ("reader", "n", "right"),
        tuple(
            (one.reader[:READER_DIGITS], size(one.right), cell(one.right))
            for one in report.readers
            if one.field is None
        ),
    )


def _reader_fields(report: Report) -> Section:
    rows = [
        (one.reader[:READER_DIGITS], one.field, size(one.right), cell(one.right))
        for one in report.readers
        if one.field is not None
    ]
    return Section(
        "reader fields",
        "How often readers are right, by field",
        "A side or place that the reader left out is not counted.",
        ("reader", "field", "n", "right"),
        tuple(rows),
        is_long=True,
    )


def _numbers(report: Report) -> Section:
    found = report.agreement.numbers
    rows = [
        (
            "any two",
            one.field,
            size(one.figures.absolute_difference),
            cell(one.figures.absolute_difference),
            "-",
            f"0 ± {one.figures.reproducibility:.1f}",
            "-",
        )
        for one in found.fields
    ]
    return Section(
        "numbers",
        "How far readers agree on numbers",
        "In the unit that the field's name ends in. 95 % of differences lie within the limits of agreement "
        "(Bland and Altman), if they are about normal. Bias: the second reader's number less the first's. "
        "ICC(2,1): 1 where both always give the same number.",
        ("readers", "field", "n", "mean absolute difference", "bias", "limits of agreement", "ICC(2,1)"),
        (*rows, *(_pair_numbers(one) for one in found.pairs)),
    )


def _pair_numbers(one: PairNumbers) -> tuple[str, ...]:
    figures = one.figures
    limits = "-" if figures.limits is None else "{:.1f} to {:.1f}".format(*figures.limits)
    difference, bias = figures.absolute_difference, figures.bias
    return (
        _pair(one.readers),
        one.field,
        size(bias),
        cell(difference),
        cell(bias),
        limits,
        number(figures.icc),
    )


def _hasty(report: Report) -> Section:
    return Section(
        "hasty",
        f"Readings in less than {SHORTEST_S:g} s",
        "Nobody reads a case in that time: a submit key that is held submits the tasks that follow unseen. "
        "They count everywhere but in the times on the page. Find their tasks in Label Studio by a filter on "
        "the lead time, delete the annotations and have the cases read again.",
        ("reader", "readings", "timed answers", "share"),
        tuple(
            (one.reader[:READER_DIGITS], str(one.num_hasty), size(one.share), cell(one.share))
            for one in report.hasty
        ),
    )
