"""The report's plots, as SVG that stands inside the page."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from sonoloop.jobs.reporting.figures import Report
from sonoloop.jobs.reporting.sections import READER_DIGITS
from sonoloop.model.intervals import Estimate

BLUE, GREY, ORANGE = "#1f77b4", "#8c8c8c", "#d95f02"
_ROW_IN = 0.28
"""Height of a row of dots, inches."""


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
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "sonoloop", "axes.spines.top": False}):
        found = {key: draw(report) for key, draw in drawn.items()}
    return {key: svg for key, svg in found.items() if svg is not None}


def _help(report: Report) -> str | None:
    entries = [entry.total for entry in report.help]
    if not entries:
        return None
    labels = [entry.model_version for entry in entries]
    figure = Figure(figsize=(9.5, 0.9 + _ROW_IN * len(labels)), layout="constrained")
    panels = figure.subplots(1, 4, squeeze=False, sharey=True)[0]
    _dots(panels[0], labels, [entry.untouched for entry in entries], "untouched", share=True)
    _dots(panels[1], labels, [entry.edits for entry in entries], "edits per case")
    _dots(panels[2], labels, [entry.text_distance for entry in entries], "text distance", share=True)
    _dots(panels[3], labels, [entry.seconds for entry in entries], "seconds, median")
    return _svg(figure)


def _organs(report: Report) -> str | None:
    rows = [organ for entry in report.help for organ in entry.organs]
    if not rows:
        return None
    labels = [f"{row.organ}, {row.model_version}" for row in rows]
    figure = Figure(figsize=(9.5, 0.9 + _ROW_IN * len(labels)), layout="constrained")
    panels = figure.subplots(1, 3, squeeze=False, sharey=True)[0]
    _dots(panels[0], labels, [row.untouched for row in rows], "untouched", share=True)
    _dots(panels[1], labels, [row.edits for row in rows], "edits per case")
    _dots(panels[2], labels, [row.seconds for row in rows], "seconds, median")
    return _svg(figure)


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
                yerr=_whiskers(shares),
                fmt="o-",
                color=color,
                label=label,
                markersize=4,
                linewidth=1,
            )
        panel.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability", ylabel="share kept")
        panel.set_title(entry.total.model_version, fontsize=9)
        panel.legend(fontsize=7, frameon=False, loc="lower right")
    return _svg(figure)


def _comparison(report: Report) -> str | None:
    found = report.comparison
    panels_of = (
        ("seconds, median", found.seconds, False),
        ("choices that are true", found.right, True),
        ("wrong drafts followed", found.followed, True),
    )
    if all(contrast.without is None for _, contrast, _ in panels_of):
        return None
    figure = Figure(figsize=(9.5, 0.9 + 2 * _ROW_IN), layout="constrained")
    panels = figure.subplots(1, len(panels_of), squeeze=False, sharey=True)[0]
    for panel, (title, contrast, share) in zip(panels, panels_of, strict=True):
        both = [contrast.with_drafts, contrast.without]
        _dots(panel, ["with drafts", "without"], both, title, share=share)
    return _svg(figure)


def _agreement(report: Report) -> str | None:
    rows = report.agreement.fields
    if not rows:
        return None
    labels = [f"{row.field} ({row.agreement.n})" for row in rows]
    figure = Figure(figsize=(9.5, 0.9 + 0.2 * len(labels)), layout="constrained")
    panels = figure.subplots(1, 2, squeeze=False, sharey=True)[0]
    _dots(panels[0], labels, [row.agreement for row in rows], "agreement", share=True)
    alphas = [
        None if row.krippendorff_alpha is None else Estimate(value=row.krippendorff_alpha, n=row.agreement.n)
        for row in rows
    ]
    _dots(panels[1], labels, alphas, "Krippendorff's alpha")
    panels[1].axvline(0, color=GREY, linewidth=1, linestyle=":")
    return _svg(figure)


def _readers(report: Report) -> str | None:
    rows = [one for one in report.readers if one.field is None]
    if not rows:
        return None
    figure = Figure(figsize=(6, 0.9 + _ROW_IN * len(rows)), layout="constrained")
    panel = figure.subplots()
    labels = [f"{row.reader[:READER_DIGITS]} ({row.right.n})" for row in rows]
    _dots(panel, labels, [row.right for row in rows], "share of choices that are true", share=True)
    return _svg(figure)


def _dots(
    panel: Any, labels: Sequence[str], values: Sequence[Estimate | None], title: str, *, share: bool = False
) -> None:
    """One row for each label, top to bottom, with a dot and its interval where there is a value."""
    given = [(place, value) for place, value in enumerate(values) if value is not None]
    panel.errorbar(
        [value.value for _, value in given],
        [place for place, _ in given],
        xerr=_whiskers([value for _, value in given]),
        fmt="o",
        color=BLUE,
        markersize=4,
        linewidth=1,
    )
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.set_title(title, fontsize=9)
    panel.grid(axis="x", linewidth=0.4)
    panel.spines[["right"]].set_visible(False)
    if share:
        panel.set_xlim(0, 1.02)
    elif given:
        panel.set_xlim(left=min(0.0, *(value.low or value.value for _, value in given)))


def _whiskers(values: Sequence[Estimate]) -> list[list[float]]:
    """Distances from the values down and up to their intervals; nothing where there is none."""
    low = [one.value - (one.value if one.low is None else one.low) for one in values]
    high = [(one.value if one.high is None else one.high) - one.value for one in values]
    return [[max(0.0, one) for one in low], [max(0.0, one) for one in high]]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
