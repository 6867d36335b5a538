"""Evaluations beside a model: ``models/<name>/<version>/evaluations/<snapshot>.json``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.jobs.evaluating.figures import Breakdown
from sonoloop.jobs.evaluating.held_out import lineage_of
from sonoloop.model.calibration import CalibrationFigures
from sonoloop.model.metrics import Scores
from sonoloop.platform import registry
from sonoloop.platform.errors import NothingToDoError
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
    breakdown: Breakdown | None = Field(
        default=None, description="with intervals, and apart; null in evaluations from before"
    )


def snapshot_of(workspace: Store, model_version: str) -> str:
    """The snapshot that a model version was trained on, from its lineage.

    Raises:
        NothingToDoError: its lineage names none.
    """
    lineage = lineage_of(workspace, model_version)
    if "snapshot" not in lineage:
        raise NothingToDoError(f"{model_version} was not trained here; name a snapshot with --snapshot")
    return str(lineage["snapshot"])


def read_evaluation(workspace: Store, model_version: str, snapshot: str) -> Evaluation | None:
    """A stored evaluation; ``None`` where that model was not measured on it by this version of sonoloop."""
    try:
        data = workspace.read_bytes(*_place(model_version, snapshot))
        return Evaluation.model_validate_json(data)
    except (FileNotFoundError, ValidationError):
        return None


def write_evaluation(workspace: Store, evaluation: Evaluation) -> None:
    """Store it beside its model; replaces that of the same snapshot from before."""
    place = _place(evaluation.model_version, evaluation.snapshot)
    workspace.write_bytes(evaluation.model_dump_json(indent=2).encode(), *place)


def _place(model_version: str, snapshot: str) -> tuple[str, ...]:
    return (*registry.place_of(model_version), "evaluations", f"{snapshot}.json")
