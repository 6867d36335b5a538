"""``sonoloop status``: what the workspace holds."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from sonoloop.jobs.calibrating import read_calibrator
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import read_runs
from sonoloop.model.calibration import case_confidence
from sonoloop.platform import registry
from sonoloop.platform.labelstudio.predictions import version_name
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.tables import current_reviews, read_cases, read_drafts, read_instances
from sonoloop.platform.workspace import Store


class StatusSummary(BaseModel):
    """Counts through the funnel, from archive objects to reviews, and the model aliases."""

    workspace: str
    objects: int
    objects_rejected: dict[str, int]
    cases: int
    cases_by_organ: dict[str, int]
    drafts_by_model: dict[str, int]
    confidence: dict[str, str]
    cases_rejected: dict[str, int]
    reviews: int
    aliases: dict[str, str | None]
    runs_unfinished: list[str]
    last_run: str | None


def status(config: ConfigOption = "sonoloop.toml", json: JsonOption = False) -> None:
    """Show what the workspace holds."""
    show(run_status(load_config(config)), title="status", as_json=json)


def run_status(config: Config) -> StatusSummary:
    """Read every room of the workspace and count.

    Raises:
        StorageError: the workspace cannot be reached.
    """
    workspace = config.open_workspace()
    instances, cases, drafts = read_instances(workspace), read_cases(workspace), read_drafts(workspace)
    runs = read_runs(workspace)
    return StatusSummary(
        workspace=workspace.uri,
        objects=len(instances),
        objects_rejected=dict(Counter(str(i.reason) for i in instances if i.status == "rejected")),
        cases=len(cases),
        cases_by_organ=dict(Counter(case.organ_hint or "unknown" for case in cases)),
        drafts_by_model=dict(Counter(d.model_version for d in drafts if d.status == "draft")),
        confidence=_confidence(workspace, [d for d in drafts if d.status == "draft"]),
        cases_rejected=dict(Counter(str(d.reason) for d in drafts if d.status == "rejected")),
        reviews=len(current_reviews(workspace)),
        aliases=registry.read_aliases(workspace, config.model.name).model_dump(),
        runs_unfinished=[run.run_id for run in runs if run.state == "running"],
        last_run=runs[-1].run_id if runs else None,
    )


def _confidence(workspace: Store, drafts: list[DraftRecord]) -> dict[str, str]:
    """Per model and prompt version: the mean confidence of its drafts, and what calibrated it."""
    groups: dict[tuple[str, str], list[DraftRecord]] = {}
    for draft in drafts:
        groups.setdefault((draft.model_version, draft.prompt_version), []).append(draft)
    return {version_name(*key): _confidence_line(workspace, key, groups[key]) for key in sorted(groups)}


def _confidence_line(workspace: Store, key: tuple[str, str], drafts: list[DraftRecord]) -> str:
    calibrator = read_calibrator(workspace, *key)
    found = [case_confidence(draft, calibrator) for draft in drafts]
    scores = [score for score in found if score is not None]
    mean = f"{sum(scores) / len(scores):.3f}" if scores else "none"
    if calibrator is None:
        return f"{mean}, not calibrated"
    return f"{mean}, calibrated on {calibrator.pooled.num_values} values of snapshot {calibrator.snapshot}"
