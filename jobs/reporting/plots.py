"""The report's plots, as SVG that stands inside the page."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from sonoloop.jobs.reporting.drawing import (
    BLUE,
    GREY,
    ORANGE,
    ROW_IN,
    dot_columns,
    dots,
    style,
    svg,
    whiskers,
)
from sonoloop.jobs.reporting.figures import Report
from sonoloop.jobs.reporting.section import READER_DIGITS
from sonoloop.jobs.reporting.story_plots import STORY_PLOTS


def plots_of(report: Report) -> dict[str, str]:
    """Section key to SVG, for the sections that have something to draw."""
    drawn: dict[str, Callable[[Report], str | None]] = {
        "help": _help,
        "organs": _organs,
        "confidence": _confidence,
        "comparison": _comparison,
        "agreement": _agreement,
        "readers": _readers,
    }
    with style():
        found = {key: draw(report) for key, draw in drawn.items()}
        if report.story is not None:
            found |= {key: draw(report.story) for key, draw in STORY_PLOTS.items()}
    return {key: plot for key, plot in found.items() if plot is not None}


def _help(report: Report) -> str | None:
    entries = [entry.total for entry in report.help]
    if not entries:
        return None
    return dot_columns(
        [entry.model_version for entry in entries],
        {
            "untouched": [entry.untouched for entry in entries],
            "edits per case": [entry.edits for entry in entries],
            "text distance": [entry.text_distance for entry in entries],
            "seconds, median": [entry.seconds for entry in entries],
        },
    )


def _organs(report: Report) -> str | None:
    rows = [organ for entry in report.help for organ in entry.organs]
    if not rows:
        return None
    return dot_columns(
        [f"{row.organ}, {row.model_version}" for row in rows],
        {
            "untouched": [row.untouched for row in rows],
            "edits per case": [row.edits for row in rows],
            "seconds, median": [row.seconds for row in rows],
        },
    )


def _confidence(report: Report) -> str | None:
    entries = [entry for entry in report.help if entry.confidence]
    if not entries:
        return None
    figure = Figure(figsize=(3.4 * len(entries), 3.4), layout="constrained")
    for panel, entry in zip(figure.subplots(1, len(entries), squeeze=False)[0], entries, strict=True):
        panel.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
        for confidence in entry.confidence:
            bins, color = confidence.bins, ORANGE if confidence.calibrated else BLUE
            name = "calibrated" if confidence.calibrated else "as decoded"
            label = f"{name}, error {confidence.calibration_error:.3f}, {confidence.num_values} values"
            places, shares = [one.mean_probability for one in bins], [one.kept for one in bins]
            panel.errorbar(
                places,
                [one.value for one in shares],
                yerr=whiskers(shares),
                fmt="o-",
                color=color,
                label=label,
                markersize=4,
                linewidth=1,
            )
        panel.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability", ylabel="share kept")
        panel.set_title(entry.total.model_version, fontsize=9)
        panel.legend(fontsize=7, frameon=False, loc="lower right")
    return svg(figure)


def _comparison(report: Report) -> str | None:
    found = report.comparison
    panels_of = (
        ("seconds, median", found.seconds, False),
        ("choices that are true", found.right, True),
        ("wrong drafts followed", found.followed, True),
    )
    if all(contrast.without is None for _, contrast, _ in panels_of):
        return None
    figure = Figure(figsize=(9.5, 0.9 + 2 * ROW_IN), layout="constrained")
    panels = figure.subplots(1, len(panels_of), squeeze=False, sharey=True)[0]
    for panel, (title, contrast, share) in zip(panels, panels_of, strict=True):
        both = [contrast.with_drafts, contrast.without]
        dots(panel, ["with drafts", "without"], both, title, share=share)
    return svg(figure)


def _agreement(report: Report) -> str | None:
    rows = report.agreement.fields
    if not rows:
        return None
    labels = [f"{row.field} ({row.agreement.n})" for row in rows]
    figure = Figure(figsize=(9.5, 0.9 + 0.2 * len(labels)), layout="constrained")
    panels = figure.subplots(1, 2, squeeze=False, sharey=True)[0]
    dots(panels[0], labels, [row.agreement for row in rows], "agreement", share=True)
    dots(panels[1], labels, [row.krippendorff_alpha for row in rows], "Krippendorff's alpha")
    panels[1].axvline(0, color=GREY, linewidth=1, linestyle=":")
    return svg(figure)


def _readers(report: Report) -> str | None:
    rows = [one for one in report.readers if one.field is None]
    if not rows:
        return None
    figure = Figure(figsize=(6, 0.9 + ROW_IN * len(rows)), layout="constrained")
    panel = figure.subplots()
    labels = [f"{row.reader[:READER_DIGITS]} ({row.right.n})" for row in rows]
    dots(panel, labels, [row.right for row in rows], "share of choices that are true", share=True)
    return svg(figure)
