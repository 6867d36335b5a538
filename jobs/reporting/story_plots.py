"""The story's plots; see `sonoloop.jobs.reporting.drawing` for how they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from sonoloop.jobs.reporting.drawing import BLUE, GREY, ORANGE, ROW_IN, dot_columns, svg
from sonoloop.jobs.reporting.story import Story
from sonoloop.jobs.reporting.story_sections import FUNNEL, rejected

MOST_SERIES = 20
"""Of drift, at most: the ones that moved most."""


def funnel(story: Story) -> str | None:
    """Bars that narrow."""
    counts = [(words, getattr(story.funnel, name)) for name, words in FUNNEL]
    return _bars(counts, BLUE) if any(number for _, number in counts) else None


def rejections(story: Story) -> str | None:
    """Reasons, most first; one of both kinds has two bars."""
    counts = [(f"{where}: {reason}", number) for where, reason, number in rejected(story)]
    return _bars(counts, ORANGE) if counts else None


def _bars(counts: Sequence[tuple[str, int]], color: str) -> str:
    figure = Figure(figsize=(9.5, 0.3 + ROW_IN * len(counts)), layout="constrained")
    panel = figure.subplots()
    bars = panel.barh(
        [words for words, _ in counts], [number for _, number in counts], color=color, height=0.65
    )
    panel.bar_label(bars, labels=[f"{number:,}" for _, number in counts], padding=4)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.12 * max(1, *(number for _, number in counts)))
    panel.xaxis.set_visible(False)
    panel.spines[["right", "bottom", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    return svg(figure)


def quality(story: Story) -> str | None:
    """Each version on each snapshot, with intervals."""
    found = story.measured
    if not found:
        return None
    return dot_columns(
        [f"{one.model_version} on {one.snapshot}" for one in found],
        {
            "entity macro-F1": [one.entity_macro_f1 for one in found],
            "edits per case": [one.edits_per_case for one in found],
            "calibration error": [one.calibration_error for one in found],
        },
    )


def experts(story: Story) -> str | None:
    """Loss by step, and the least used expert by epoch, of each training."""
    if not story.trainings:
        return None
    figure = Figure(figsize=(9.5, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    last = story.trainings[-1]
    for one in story.trainings:
        color = BLUE if one is last else GREY
        label = "last training" if one is last else None
        left.plot(
            [step for step, _ in one.losses], [loss for _, loss in one.losses], color=color, label=label
        )
        epochs, shares = [at + 1 for at, _, _ in one.experts], [share for _, share, _ in one.experts]
        right.plot(epochs, shares, "o-", color=color, markersize=4)
    left.set(xlabel="step", ylabel="loss, nats per token", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="least used expert", ylim=(0, 1.02))
    right.xaxis.get_major_locator().set_params(integer=True)
    for panel in (left, right):
        panel.spines[["right"]].set_visible(False)
        panel.grid(axis="y", linewidth=0.4)
    left.legend(frameon=False)
    return svg(figure)


def drift(story: Story) -> str | None:
    """The series that moved most."""
    if story.drift is None or not story.drift.compared:
        return None
    found = sorted(story.drift.compared, key=lambda one: (not one.alarm, -abs(one.shift)))[:MOST_SERIES]
    figure = Figure(figsize=(9.5, 0.6 + ROW_IN * len(found)), layout="constrained")
    panel = figure.subplots()
    names = [", ".join(filter(None, (one.what, one.scanner, one.written_by))) for one in found]
    colors = [ORANGE if one.alarm else BLUE for one in found]
    panel.barh(range(len(found)), [one.shift for one in found], color=colors, height=0.6)
    panel.set_yticks(range(len(found)), names)
    panel.invert_yaxis()
    panel.axvline(0, color=GREY, linewidth=1)
    panel.set_xlabel("shift")
    panel.spines[["right"]].set_visible(False)
    return svg(figure)


STORY_PLOTS = {
    "funnel": funnel,
    "rejections": rejections,
    "quality": quality,
    "experts": experts,
    "drift": drift,
}
"""Section key to what draws it."""
