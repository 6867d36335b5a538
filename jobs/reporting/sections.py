"""The report as tables of words, the same for the terminal and for the page."""

from __future__ import annotations

from sonoloop.jobs.reporting.comparing import Contrast
from sonoloop.jobs.reporting.figures import Report
from sonoloop.jobs.reporting.haste import SHORTEST_S
from sonoloop.jobs.reporting.helping import Help
from sonoloop.jobs.reporting.reader_sections import reader_sections
from sonoloop.jobs.reporting.section import Section, cell, size
from sonoloop.jobs.reporting.story_sections import loop_sections, model_sections, running_sections


def chapters_of(report: Report) -> dict[str, list[Section]]:
    """All tables by chapter, those without rows too."""
    drafts = [_help(report), _organs(report), _comparison(report), _confidence(report)]
    readers = {"Drafts and their readers": drafts, "Readers": reader_sections(report)}
    if report.story is None:
        return readers
    story = report.story
    return {
        "The way through": loop_sections(story),
        "Models": model_sections(story),
        **readers,
        "Running it": running_sections(story),
    }


def sections_of(report: Report) -> list[Section]:
    """All tables, one after the other."""
    return [section for sections in chapters_of(report).values() for section in sections]


def _help(report: Report) -> Section:
    return Section(
        "help",
        "What drafts were worth, by model version",
        "Untouched: filled fields that still say what the draft said. Whole: drafts submitted without an "
        "edit. Text distance: words changed, of the longer report. Seconds: median, without readings in less "
        f"than {SHORTEST_S:g} s. In brackets, here and below, intervals of 95 %.",
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
    is_known = any(
        one is not None for one in (found.seconds.without, found.right.without, found.right.with_drafts)
    )
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
        tuple((name, *_contrast_cells(contrast)) for name, contrast in rows) if is_known else (),
    )


def _contrast_cells(contrast: Contrast) -> tuple[str, ...]:
    one, other = contrast.with_drafts, contrast.without
    return size(one), cell(one), size(other), cell(other), cell(contrast.difference)
