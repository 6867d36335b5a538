"""The demo's pictures: cases with boxes and drafts before and after, and the figures of both rounds."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from sonoloop.jobs.demo.comparison import Comparison
from sonoloop.model.metrics import Described
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.workspace import Store

TRUTH, BEFORE, AFTER = "#2ca02c", "#d62728", "#1f77b4"
WRAP = 58


def draw_contact_sheet(
    path: Path,
    workspace: Store,
    cases: Sequence[CaseRecord],
    truths: Sequence[Described],
    before: Sequence[Described | None],
    after: Sequence[Described | None],
) -> None:
    """One row per case: its first image with the three boxes, and the impression and entities of each."""
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(14, 2.6 * len(cases)), layout="constrained")
        grid = figure.subplots(len(cases), 2, squeeze=False, width_ratios=(1, 2.6))
        for row, case in enumerate(cases):
            drafts = ((truths[row], TRUTH), (before[row], BEFORE), (after[row], AFTER))
            _draw_image(grid[row][0], workspace, case, drafts)
            _draw_texts(grid[row][1], drafts)
        figure.suptitle("Lesion boxes and drafts: truth (green), round 0 (red), round 1 (blue)")
        figure.savefig(path, dpi=110)


def draw_rounds(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Bars of round 0 beside round 1: entity macro-F1, BLEU-1, ROUGE-L, and edits per case."""
    figure = Figure(figsize=(5.2 * len(comparisons) + 1, 4), layout="constrained")
    panels = figure.subplots(1, len(comparisons) + 1, squeeze=False)[0]
    names = ("entity\nmacro-F1", "BLEU-1", "ROUGE-L", "box IoU")
    for panel, item in zip(panels, comparisons, strict=False):
        values = [
            [s.entity_macro_f1, s.bleu_1, s.rouge_l, s.box_iou or 0.0]
            for s in (item.before.scores, item.after.scores)
        ]
        _bars(panel, names, values)
        panel.set_ylim(0, 1)
        panel.set_title(f"{item.kind}, {item.before.scores.num_cases} cases", fontsize=10)
    edits = [[c.before.edits_per_case for c in comparisons], [c.after.edits_per_case for c in comparisons]]
    _bars(panels[-1], [c.kind.replace(", ", ",\n") for c in comparisons], edits)
    panels[-1].set_title("fields to edit per case", fontsize=10)
    panels[0].legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=110)


def _bars(panel: Any, names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    places = np.arange(len(names))
    for shift, (label, color, heights) in enumerate(
        zip(("round 0", "round 1"), (BEFORE, AFTER), values, strict=True)
    ):
        bars = panel.bar(places + (shift - 0.5) * 0.38, heights, 0.38, label=label, color=color)
        panel.bar_label(bars, fmt="%.2f", fontsize=7)
    panel.set_xticks(places, names, fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_image(
    panel: Any, workspace: Store, case: CaseRecord, drafts: Sequence[tuple[Described | None, str]]
) -> None:
    first = case.images[0]
    panel.imshow(np.asarray(Image.open(io.BytesIO(workspace.read_bytes(first.image_key)))), cmap="gray")
    panel.set_axis_off()
    for draft, color in drafts:
        for box in draft.boxes if draft else ():
            if box.image_index == 0:
                corner = (box.x * first.width, box.y * first.height)
                panel.add_patch(
                    Rectangle(
                        corner,
                        box.width * first.width,
                        box.height * first.height,
                        fill=False,
                        color=color,
                        lw=1.6,
                    )
                )


def _draw_texts(panel: Any, drafts: Sequence[tuple[Described | None, str]]) -> None:
    panel.set_axis_off()
    for column, (draft, color) in enumerate(drafts):
        entities = draft.entities.flat() if draft and draft.entities else {}
        lines = [f"{name}: {value}" for name, value in entities.items()]
        impression = textwrap.fill(draft.impression if draft else "rejected: no valid draft", WRAP // 2 + 6)
        panel.text(
            column / 3,
            1.0,
            "\n".join([*lines, "", impression]),
            color=color,
            va="top",
            transform=panel.transAxes,
        )
