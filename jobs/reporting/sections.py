"""The report as tables of words, the same for the terminal and for the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sonoloop.jobs.reporting.agreeing import PairAgreement
from sonoloop.jobs.reporting.comparing import Contrast
from sonoloop.jobs.reporting.figures import Report
from sonoloop.jobs.reporting.helping import Help
from sonoloop.model.intervals import Estimate

READER_DIGITS = 8
"""Of a pseudonym, in tables; enough to tell some thousands of readers apart."""


@dataclass(frozen=True)
class Section:
    """One table: what it shows, how to read it, and its cells; a long one is for the page only, folded."""

    key: str
    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_long: bool = False


def sections_of(report: Report) -> list[Section]:
    """All tables, those without rows too."""
    return [
        _help(report),
        _organs(report),
        _confidence(report),
        _comparison(report),
        _fields(report),
        _pairs(report),
        _pair_fields(report),
        _readers(report),
        _reader_fields(report),
    ]


def _help(report: Report) -> Section:
    return Section(
        "help",
        "What drafts were worth, by model version",
        "Untouched: filled fields that still say what the draft said. Whole: drafts submitted without an "
        "edit. Text distance: words changed, of the longer report. Seconds: median. In brackets, here and "
        "below, intervals of 95 %.",
        ("model version", *_HELP),
        tuple((entry.total.model_version, *_help_cells(entry.total)) for entry in report.help),
    )


def _organs(report: Report) -> Section:
    return Section(
        "organs",
        "The same by organ",
        "The organ is the one that the reader chose.",
        ("model version", "organ", *_HELP),
        tuple(
            (organ.model_version, organ.organ or "", *_help_cells(organ))
            for entry in report.help
            for organ in entry.organs
        ),
    )


_HELP = ("n", "untouched", "edits per case", "whole", "text distance", "seconds")


def _help_cells(entry: Help) -> tuple[str, ...]:
    return str(entry.num_readings), *(
        map(cell, (entry.untouched, entry.edits, entry.whole, entry.text_distance, entry.seconds))
    )


def _confidence(report: Report) -> Section:
    rows = [
        (
            entry.total.model_version,
            "calibrated" if confidence.calibrated else "as decoded",
            f"{one.low:.1f} - {one.high:.1f}",
            str(one.kept.n),
            f"{one.mean_probability:.2f}",
            cell(one.kept),
        )
        for entry in report.help
        for confidence in entry.confidence
        for one in confidence.bins
    ]
    return Section(
        "confidence",
        "Is 0.9 really 0.9: drafted values that readers kept, by probability",
        "A model is as sure as it is right where the share kept is the mean probability.",
        ("model version", "probability", "bin", "n", "mean", "kept"),
        tuple(rows),
    )


def _comparison(report: Report) -> Section:
    found = report.comparison
    rows = (
        ("seconds, median", found.seconds),
        ("choices that are true", found.right),
        ("wrong drafted choices that the reader has too", found.followed),
    )
    return Section(
        "comparison",
        f"With drafts of {found.model_version or 'no model'} and without (control tasks)",
        "The last two over cases whose truth is known without the reader: gold tasks, and cases that "
        "somebody else adjudicated. Drafts draw readers along where the last line is higher with them.",
        ("figure", "n", "with drafts", "n", "without", "difference"),
        tuple((name, *_contrast_cells(contrast)) for name, contrast in rows),
    )


def _contrast_cells(contrast: Contrast) -> tuple[str, ...]:
    one, other = contrast.with_drafts, contrast.without
    return size(one), cell(one), size(other), cell(other), cell(contrast.difference)


def _fields(report: Report) -> Section:
    found = report.agreement
    rows = [
        (
            one.field,
            one.level,
            size(one.agreement),
            cell(one.agreement),
            number(one.fleiss_kappa),
            number(one.krippendorff_alpha),
        )
        for one in found.fields
    ]
    return Section(
        "agreement",
        f"How far readers agree: {found.num_cases} cases read twice or more, {found.num_disputed} disputed",
        f"Box IoU {cell(found.box_iou)}; text distance {cell(found.text_distance)}. No kappa or alpha where "
        "all said the same throughout.",
        ("field", "level", "n", "agreement", "Fleiss' kappa", "Krippendorff's alpha"),
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
        kappas = [one.cohen_kappa for one in found if one.cohen_kappa is not None]
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
        (_pair(one.readers), one.field, str(one.num_cases), number(one.agreement), number(one.cohen_kappa))
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


def cell(value: Estimate | None) -> str:
    """An estimate as it stands in a table."""
    return "-" if value is None else str(value)


def size(value: Estimate | None) -> str:
    """How many values an estimate is made of."""
    return "0" if value is None else str(value.n)


def number(value: float | None) -> str:
    """A figure without an interval as it stands in a table."""
    return "-" if value is None else f"{value:.2f}"
