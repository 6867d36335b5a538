"""``sonoloop status``: what the workspace holds, how its runs stand, and one run in full."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
import typer
from pydantic import BaseModel

from sonoloop.jobs.annotating.figures import Figures, RunProgress, RunSummary, now
from sonoloop.jobs.confidence import case_confidences
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.drifting.report import newest_report
from sonoloop.jobs.gating.decision import read_decisions
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.progress import in_words
from sonoloop.jobs.runs import Run, read_run, read_runs
from sonoloop.model.calibration import Calibrator, read_calibrator
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.labelstudio.predictions import version_name
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, INSTANCES, stream
from sonoloop.platform.tables import count_rejections, current_reviews
from sonoloop.platform.workspace import Store

DECISIONS_SHOWN = 3
RunState = Literal["finished", "failed", "under way", "no sign of life"]


class StatusSummary(BaseModel):
    """Counts through the funnel, from archive objects to reviews, the model aliases, and unfinished runs."""

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
    decisions: list[str]
    drift: list[str]
    runs_unfinished: list[str]
    runs_progress: dict[str, str]
    last_run: str | None


class RunStatus(BaseModel):
    """One run: its summary where it is finished, its last progress where it is not."""

    run_id: str
    verb: str
    state: RunState
    started_at: datetime
    progress: str
    counts: dict[str, int]
    figures: Figures | RunSummary | None


def status(
    config: ConfigOption = "sonoloop.toml",
    run: Annotated[str | None, typer.Option(help="One run in full, by its id.")] = None,
    prometheus: Annotated[
        bool,
        typer.Option("--prometheus", help="Gauges in Prometheus's text format, for a textfile collector."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what the workspace holds, or how one run stands."""
    settings = load_config(config)
    if prometheus:
        from sonoloop.jobs.loop_metrics import loop_metrics  # asks this module

        sys.stdout.write(loop_metrics(settings))
    elif run is None:
        show(run_status(settings), title="status", as_json=json)
    else:
        show(status_of_run(settings, run), title=f"run {run}", as_json=json)


def run_status(config: Config) -> StatusSummary:
    """Read every room of the workspace and count, a range of rows at a time.

    Raises:
        StorageError: the workspace cannot be reached.
    """
    workspace = config.open_workspace()
    runs = read_runs(workspace)
    unfinished = [run for run in runs if run.state == "running"]
    drafts, organs = _counted_drafts(workspace), _cases_by_organ(workspace)
    return StatusSummary(
        workspace=workspace.uri,
        objects=_num_objects(workspace),
        objects_rejected=count_rejections(workspace),
        cases=organs.total(),
        cases_by_organ=dict(organs),
        drafts_by_model=dict(drafts.by_model),
        confidence={version_name(*key): str(drafts.confidence[key]) for key in sorted(drafts.confidence)},
        cases_rejected=dict(drafts.rejected),
        reviews=len(current_reviews(workspace)),
        aliases=registry.read_aliases(workspace, config.model.name).model_dump(),
        decisions=_decisions(workspace, config.model.name),
        drift=_drift(workspace),
        runs_unfinished=[run.run_id for run in unfinished],
        runs_progress={
            run.run_id: _progress(RunProgress.read(workspace, run.run_id))
            for run in unfinished
            if run.verb == "annotate"
        },
        last_run=runs[-1].run_id if runs else None,
    )


def status_of_run(config: Config, run_id: str) -> RunStatus:
    """One run, from the files it keeps in the workspace.

    Raises:
        ConfigError: there is no such run.
        StorageError: the workspace cannot be reached.
    """
    workspace = config.open_workspace()
    run = read_run(workspace, run_id)
    if run is None:
        raise ConfigError(f"{workspace.uri} has no run {run_id}; `sonoloop status` names the last ones")
    summary, progress = RunSummary.read(workspace, run_id), RunProgress.read(workspace, run_id)
    return RunStatus(
        run_id=run.run_id,
        verb=run.verb,
        state=_state(run, progress),
        started_at=run.started_at,
        progress=_progress(progress) if run.state == "running" else _ended(run),
        counts=run.counts,
        figures=summary if summary is not None else progress and progress.figures,
    )


def _state(run: Run, progress: RunProgress | None) -> RunState:
    if run.state != "running":
        return run.state
    return "under way" if progress is None or progress.silent_s(now()) is None else "no sign of life"


def _ended(run: Run) -> str:
    ended = run.state if run.seconds is None else f"{run.state} {in_words(run.seconds)} after it was begun"
    return ended if run.reason is None else f"{ended}: {run.reason}"


def _progress(progress: RunProgress | None) -> str:
    if progress is None:
        return "no progress written yet"
    silent_s = progress.silent_s(now())
    if silent_s is None:
        return str(progress.standing())
    return (
        f"no sign of life since {progress.updated_at:%Y-%m-%d %H:%M:%S} UTC ({in_words(silent_s)}); then "
        f"{progress.standing().counts}; the same command goes on with it"
    )


def _decisions(workspace: Store, name: str) -> list[str]:
    """The gate's last decisions, the newest first."""
    return [
        f"{one.decided_at:%Y-%m-%d %H:%M} {one.challenger.model_version} "
        f"{'promoted' if one.promoted else 'not promoted'}: {one.reason}"
        for one in reversed(read_decisions(workspace, name)[-DECISIONS_SHOWN:])
    ]


def _drift(workspace: Store) -> list[str]:
    """The alarms of the latest month that `sonoloop drift` looked at, or a line that there are none."""
    report = newest_report(workspace)
    if report is None:
        return ["not looked at; run `sonoloop drift`"]
    if not report.alarms:
        return [f"{report.month}: nothing of {len(report.compared)} series moved"]
    return [f"ALARM {report.month}: {alarm}" for alarm in report.alarms]


def _num_objects(workspace: Store) -> int:
    tables = stream(workspace, INSTANCES, columns=("status",))
    return sum(table.filter(pc.not_equal(table["status"], "gone")).num_rows for table in tables)


def _cases_by_organ(workspace: Store) -> Counter[str]:
    organs: Counter[str] = Counter()
    for table in stream(workspace, CASES, columns=("organ_hint", "withdrawn")):
        ready = table.filter(pc.invert(table["withdrawn"]))
        organs.update(pc.fill_null(ready["organ_hint"], "unknown").to_pylist())
    return organs


@dataclass
class _Confidence:
    """The mean confidence of the drafts of one model and prompt version, and what calibrated it."""

    calibrator: Calibrator | None
    total: float = 0.0
    num_scores: int = 0

    def add(self, drafts: pa.Table) -> None:
        scores = case_confidences(drafts, self.calibrator)
        self.total += float(scores.sum())
        self.num_scores += len(scores)

    def __str__(self) -> str:
        mean = f"{self.total / self.num_scores:.3f}" if self.num_scores else "none"
        if self.calibrator is None:
            return f"{mean}, not calibrated"
        fitted = self.calibrator
        return f"{mean}, calibrated on {fitted.pooled.num_values} values of snapshot {fitted.snapshot}"


@dataclass
class _Drafts:
    by_model: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    confidence: dict[tuple[str, str], _Confidence] = field(default_factory=dict)


def _counted_drafts(workspace: Store) -> _Drafts:
    counts = _Drafts()
    columns = ("status", "reason", "confidence", "value_probabilities", "entities")
    for table in stream(workspace, DRAFTS, columns=columns):
        counts.rejected.update(
            table.filter(pc.equal(table["status"], "rejected"))["reason"].fill_null("unknown").to_pylist()
        )
        drafts = table.filter(pc.equal(table["status"], "draft"))
        for key in _versions(drafts):
            own = drafts.filter(
                pc.and_(pc.equal(drafts["model_version"], key[0]), pc.equal(drafts["prompt_version"], key[1]))
            )
            counts.by_model[key[0]] += own.num_rows
            if key not in counts.confidence:
                counts.confidence[key] = _Confidence(read_calibrator(workspace, *key))
            counts.confidence[key].add(own)
    return counts


def _versions(drafts: pa.Table) -> list[tuple[str, str]]:
    """The model and prompt versions in a table."""
    keys = ["model_version", "prompt_version"]
    return [(row[keys[0]], row[keys[1]]) for row in drafts.group_by(keys).aggregate([]).to_pylist()]
