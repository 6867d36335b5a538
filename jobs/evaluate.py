"""``sonoloop evaluate``: champion and challenger on the held-out reviews of a snapshot, side by side."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.annotating.selection import Selection
from sonoloop.jobs.calibrating import calibrate
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import ray_session
from sonoloop.jobs.snapshot import SnapshotRow, read_snapshot
from sonoloop.model.calibration import CalibrationFigures
from sonoloop.model.metrics import Described, Scores, num_edits, score
from sonoloop.platform import registry
from sonoloop.platform.errors import ConflictError, NothingToDoError
from sonoloop.platform.records import DraftRecord, ReviewRecord
from sonoloop.platform.tables import read_drafts
from sonoloop.platform.workspace import Store


class Evaluation(BaseModel):
    """``models/<name>/<version>/evaluations/<snapshot>.json``: figures over the held-out cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model_version: str
    prompt_version: str
    snapshot: str
    scores: Scores
    edits_per_case: float
    calibration: CalibrationFigures | None = Field(
        default=None, description="null in evaluations from before it was measured"
    )


class EvaluateSummary(BaseModel):
    """The same figures for both models over the same cases."""

    snapshot: str
    num_cases: int
    champion: Evaluation
    challenger: Evaluation


def evaluate(
    config: ConfigOption = "sonoloop.toml",
    snapshot: Annotated[
        str | None, typer.Option(help="Snapshot name; the challenger's own when absent.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure champion and challenger on cases no training ever saw."""
    show(run_evaluate(load_config(config), snapshot=snapshot), title="evaluate", as_json=json)


def run_evaluate(config: Config, *, snapshot: str | None = None) -> EvaluateSummary:
    """Draft the held-out cases with both models where that is missing, and score them against the reviews.

    The calibrators of both are fitted anew on the same reviews.

    Raises:
        ConfigError: there is no challenger.
        NothingToDoError: the snapshot holds no case out.
    """
    workspace, name = config.open_workspace(), config.model.name
    challenger = registry.resolve(workspace, name, "challenger")
    snapshot = snapshot or snapshot_of(workspace, challenger)
    rows = read_snapshot(workspace, snapshot, "test")
    if not rows:
        raise NothingToDoError(f"snapshot {snapshot} holds no case out; more patients must be reviewed")
    champion = registry.resolve(workspace, name)
    with ray_session(config.ray):
        evaluations = [
            _evaluated(config, workspace, version, snapshot, rows) for version in (champion, challenger)
        ]
    return EvaluateSummary(
        snapshot=snapshot, num_cases=len(rows), champion=evaluations[0], challenger=evaluations[1]
    )


def snapshot_of(workspace: Store, model_version: str) -> str:
    """The snapshot that a model version was trained on, from its lineage.

    Raises:
        NothingToDoError: its lineage names none.
    """
    name, _, version = model_version.partition("/")
    lineage = jsonlib.loads(workspace.read_bytes("models", name, version, "lineage.json"))
    if "snapshot" not in lineage:
        raise NothingToDoError(f"{model_version} was not trained here; name a snapshot with --snapshot")
    return str(lineage["snapshot"])


def read_evaluation(workspace: Store, model_version: str, snapshot: str) -> Evaluation | None:
    """A stored evaluation, or ``None`` where that model was not measured on that snapshot."""
    name, _, version = model_version.partition("/")
    try:
        data = workspace.read_bytes("models", name, version, "evaluations", f"{snapshot}.json")
    except FileNotFoundError:
        return None
    return Evaluation.model_validate_json(data)


def described_review(review: ReviewRecord) -> Described:
    """A review as a reference for the metrics."""
    return Described(review.findings, review.impression, review.parsed_entities(), review.boxes)


def described_draft(draft: DraftRecord | None) -> Described | None:
    """A draft as the metrics take it; ``None`` for a missing one and for a rejection."""
    if draft is None or draft.status != "draft":
        return None
    return Described(draft.findings or "", draft.impression or "", draft.parsed_entities(), draft.boxes)


def _evaluated(
    config: Config, workspace: Store, version: str, snapshot: str, rows: list[SnapshotRow]
) -> Evaluation:
    drafted = run_annotate(config, Selection(case_ids=frozenset(row.case_id for row in rows)), model=version)
    if drafted.held:
        raise ConflictError(
            f"{drafted.held} of the held-out cases are being drafted by another run; evaluate when it ends"
        )
    prompt_version = config.annotate.prompt_version
    found = read_drafts(workspace, model_version=version, prompt_version=prompt_version)
    by_case = {draft.case_id: draft for draft in found}
    drafts = [described_draft(by_case.get(row.case_id)) for row in rows]
    references = [described_review(row) for row in rows]
    nothing = Described("", "", None, ())
    edits = [num_edits(d or nothing, r) for d, r in zip(drafts, references, strict=True)]
    evaluation = Evaluation(
        model_version=version,
        prompt_version=prompt_version,
        snapshot=snapshot,
        scores=score(drafts, references),
        edits_per_case=sum(edits) / len(edits),
        calibration=calibrate(
            workspace, version, prompt_version, snapshot=snapshot, drafts=by_case, rows=rows
        ),
    )
    name, _, number = version.partition("/")
    workspace.write_bytes(
        evaluation.model_dump_json(indent=2).encode(),
        "models",
        name,
        number,
        "evaluations",
        f"{snapshot}.json",
    )
    return evaluation
