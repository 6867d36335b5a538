"""How the report's plots are drawn: SVG that stands in the page, in the page's colours, light or dark.

Matplotlib writes colours as numbers; those named here become the page's variables afterwards. Text stays
text: it is found by a search, read aloud, and takes the page's font, which is narrower than what matplotlib
measures with.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from sonoloop.model.intervals import Estimate

BLUE, GREY, ORANGE, INK, FAINT = "#1f77b4", "#8c8c8c", "#d95f02", "#010203", "#d0d1d2"
_VARIABLES = {BLUE: "--blue", GREY: "--grey", ORANGE: "--orange", INK: "--ink", FAINT: "--faint"}
ROW_IN = 0.28
"""Height of a row of dots, inches."""
SHARES = frozenset({"untouched", "text distance", "entity macro-F1"})
"""Titles of columns whose values lie between 0 and 1."""
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")


@contextmanager
def style() -> Iterator[None]:
    """For everything that is drawn inside."""
    look = {
        "font.size": 9,
        "svg.hashsalt": "sonoloop",
        "svg.fonttype": "none",
        "axes.spines.top": False,
        "grid.color": FAINT,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.facecolor": "none",
        **dict.fromkeys(_INKED, INK),
    }
    with mpl.rc_context(look):
        yield


def svg(figure: Figure) -> str:
    """The figure as an element of the page; silent to a screen reader, which has the table below it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text[text.index("<svg") :].replace("<svg", '<svg aria-hidden="true"', 1)


def dot_columns(labels: Sequence[str], columns: Mapping[str, Sequence[Estimate | None]]) -> str:
    """Columns of `dots` side by side, by title; those of `SHARES` go from 0 to 1."""
    figure = Figure(figsize=(9.5, 0.9 + ROW_IN * len(labels)), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for panel, (title, values) in zip(panels, columns.items(), strict=True):
        dots(panel, labels, values, title, share=title in SHARES)
    return svg(figure)


def dots(
    panel: Any, labels: Sequence[str], values: Sequence[Estimate | None], title: str, *, share: bool = False
) -> None:
    """One row for each label, top to bottom, with a dot and its interval where there is a value."""
    given = [(place, value) for place, value in enumerate(values) if value is not None]
    panel.errorbar(
        [value.value for _, value in given],
        [place for place, _ in given],
        xerr=whiskers([value for _, value in given]),
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
        low = min(0.0, *(value.value if value.low is None else value.low for _, value in given))
        high = max(value.value if value.high is None else value.high for _, value in given)
        panel.set_xlim(low, low + 1.05 * (high - low) if high > low else low + 1)


def whiskers(values: Sequence[Estimate]) -> list[list[float]]:
    """Distances from the values down and up to their intervals; nothing where there is none."""
    low = [one.value - (one.value if one.low is None else one.low) for one in values]
    high = [(one.value if one.high is None else one.high) - one.value for one in values]
    return [[max(0.0, one) for one in low], [max(0.0, one) for one in high]]
