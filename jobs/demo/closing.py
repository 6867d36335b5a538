"""How the demo ends: both rounds side by side, the pictures, and what to look at next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel
from rich.table import Table

from sonoloop.jobs.demo.comparison import Comparison, compare, drafts_of
from sonoloop.jobs.demo.pictures import draw_contact_sheet, draw_rounds
from sonoloop.jobs.output import progress
from sonoloop.model.metrics import Described
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.stack import StackInfo
from sonoloop.platform.workspace import Store

NEW_KIND, KNOWN_KIND = "liver and kidney, new to the model", "breast and thyroid, known"
NEW_ORGANS: tuple[Organ, ...] = ("liver", "kidney")
REPORT_FILE = "report.html"
NUM_SHOWN = 6
"""Cases on the contact sheet."""


class DemoSummary(BaseModel):
    """What the demo measured; also written to ``summary.json``."""

    cases: int
    reviewed: int
    promoted: bool
    rounds: list[Comparison]
    edits_per_case: dict[str, float]
    seconds: dict[str, float]


def compare_kinds(
    workspace: Store,
    versions: tuple[str, str],
    truth: Mapping[str, Described],
    cases: Mapping[str, CaseRecord],
) -> list[Comparison]:
    """Both rounds on the kind of studies that is new to the model, and on the kind it knows."""
    new = {key: true for key, true in truth.items() if cases[key].organ_hint in NEW_ORGANS}
    known = {key: true for key, true in truth.items() if key not in new}
    kinds = ((NEW_KIND, new), (KNOWN_KIND, known))
    return [compare(workspace, versions, chosen, kind=kind) for kind, chosen in kinds if chosen]


def draw_pictures(
    output: Path,
    workspace: Store,
    versions: tuple[str, str],
    rounds: list[Comparison],
    truth: Mapping[str, Described],
    cases: Mapping[str, CaseRecord],
) -> None:
    """``cases.png``: some cases with boxes and drafts of both rounds; ``rounds.png``: the figures."""
    shown = [key for key, true in truth.items() if true.boxes and cases[key].organ_hint in NEW_ORGANS]
    # a rejection has nothing to compare, and rejected cases stand first: they never get to a reader
    drafted = dict(zip(shown, drafts_of(workspace, versions[0], shown), strict=True))
    shown = sorted(shown, key=lambda key: drafted[key] is None)[:NUM_SHOWN]
    before, after = (drafts_of(workspace, version, shown) for version in versions)
    truths = [truth[key] for key in shown]
    draw_contact_sheet(output / "cases.png", workspace, [cases[key] for key in shown], truths, before, after)
    draw_rounds(output / "rounds.png", rounds)


def show_closing(summary: DemoSummary, info: StackInfo, output: Path) -> None:
    """The closing table and what to look at next."""
    table = Table(title="Round 0 beside round 1, against the truth, on cases never trained on")
    for heading in ("cases", "figure", "round 0", "round 1"):
        table.add_column(heading, justify="left" if heading in ("cases", "figure") else "right")
    for item in summary.rounds:
        kind = f"{item.kind} (n={item.before.scores.num_cases})"
        for name, before, after in _figures(item):
            table.add_row(kind, name, _cell(before), _cell(after))
            kind = ""
        table.add_section()
    edits = (f"{summary.edits_per_case[name]:.2f}" for name in ("round 0", "round 1"))
    table.add_row("read in Label Studio (simulated reader)", "fields edited per case", *edits)
    progress.print(table)
    config = output / "sonoloop.toml"
    progress.print(
        f"pictures and figures: {output}/cases.png, {output}/rounds.png, {output}/summary.json\n"
        f"readers and drafts in figures: {output}/{REPORT_FILE}\n"
        f"the reviewed tasks: {info.labelstudio_url} (login: {info.labelstudio_account_file})\n"
        f"the workspace: . {info.env_file} && sonoloop status --config {config}\n"
        f"{_of_promotion(summary, config)}\n"
        f"stop the stack: sonoloop down --folder {info.folder}"
    )


def _of_promotion(summary: DemoSummary, config: Path) -> str:
    if summary.promoted:
        return f"undo the promotion: sonoloop promote --rollback --config {config}"
    return "nothing was promoted (the gate's reason stands above): both rounds are the first champion's"


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


def _figures(item: Comparison) -> list[tuple[str, float | None, float | None]]:
    before, after = item.before, item.after
    return [
        ("entity macro-F1", before.scores.entity_macro_f1, after.scores.entity_macro_f1),
        ("BLEU-1", before.scores.bleu_1, after.scores.bleu_1),
        ("ROUGE-L", before.scores.rouge_l, after.scores.rouge_l),
        ("box IoU", before.scores.box_iou, after.scores.box_iou),
        ("fields to edit per case", before.edits_per_case, after.edits_per_case),
        ("calibration error as decoded", before.ece_decoded, after.ece_decoded),
        ("calibration error, calibrated", before.ece_calibrated, after.ece_calibrated),
    ]
