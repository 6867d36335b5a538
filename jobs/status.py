"""``sonoloop status``: what the workspace holds."""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc
from pydantic import BaseModel

from sonoloop.jobs.calibrating import read_calibrator
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import read_runs
from sonoloop.model.calibration import case_confidence
from sonoloop.platform import registry
from sonoloop.platform.labelstudio.predictions import version_name
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.sorted_rooms import CASES, INSTANCES, stream
from sonoloop.platform.tables import count_rejections, current_reviews, read_drafts
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
    drafts, runs = read_drafts(workspace), read_runs(workspace)
    organs = _cases_by_organ(workspace)
    return StatusSummary(
        workspace=workspace.uri,
        objects=_num_objects(workspace),
        objects_rejected=count_rejections(workspace),
        cases=organs.total(),
        cases_by_organ=dict(organs),
        drafts_by_model=dict(Counter(d.model_version for d in drafts if d.status == "draft")),
        confidence=_confidence(workspace, [d for d in drafts if d.status == "draft"]),
        cases_rejected=dict(Counter(str(d.reason) for d in drafts if d.status == "rejected")),
        reviews=len(current_reviews(workspace)),
        aliases=registry.read_aliases(workspace, config.model.name).model_dump(),
        runs_unfinished=[run.run_id for run in runs if run.state == "running"],
        last_run=runs[-1].run_id if runs else None,
    )


def _num_objects(workspace: Store) -> int:
    tables = stream(workspace, INSTANCES, columns=("status",))
    return sum(table.filter(pc.not_equal(table["status"], "gone")).num_rows for table in tables)


def _cases_by_organ(workspace: Store) -> Counter[str]:
    organs: Counter[str] = Counter()
    for table in stream(workspace, CASES, columns=("organ_hint", "withdrawn")):
        ready = table.filter(pc.invert(table["withdrawn"]))
        organs.update(pc.fill_null(ready["organ_hint"], "unknown").to_pylist())
    return organs


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
