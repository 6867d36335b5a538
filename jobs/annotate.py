"""``sonoloop annotate``: a draft or a rejection for every case that has none of this model version."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.annotating.closing import RunCounts, close_run
from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.pipeline import write_drafts
from sonoloop.jobs.annotating.selection import EVERYTHING, Chooser, Selection
from sonoloop.jobs.annotating.units import InputParts, write_units
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, progress, show
from sonoloop.jobs.progress import counted
from sonoloop.jobs.runs import Run, ray_session, stage, start_run, unfinished
from sonoloop.platform import registry
from sonoloop.platform.errors import NothingToDoError, TooManyRejectionsError
from sonoloop.platform.records import content_id
from sonoloop.platform.settings import settings_hash
from sonoloop.platform.workspace import Store


class AnnotateSummary(BaseModel):
    """Counts of one annotate run: ``cases = drafted + rejected``."""

    run_ids: list[str]
    model_version: str
    resumed: bool
    cases: int
    drafted: int
    rejected: int
    rejected_by_reason: dict[str, int]
    cases_per_s: float


def annotate(
    config: ConfigOption = "sonoloop.toml",
    model: Annotated[str, typer.Option(help="Alias or version of the model.")] = "champion",
    since: Annotated[datetime | None, typer.Option(help="Only cases indexed since then (UTC).")] = None,
    organ: Annotated[list[str] | None, typer.Option(help="Only this organ; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many cases.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many cases, drawn at random.")] = None,
    retry_rejected: Annotated[bool, typer.Option(help="Only what was rejected before.")] = False,
    reason: Annotated[list[str] | None, typer.Option(help="Of that, only for this reason.")] = None,
    unreviewed: Annotated[bool, typer.Option(help="Only cases that nobody has reviewed.")] = False,
    json: JsonOption = False,
) -> None:
    """Draft a report and entities for every case."""
    selection = Selection(
        since=since,
        organs=organ or (),
        limit=limit,
        sample=sample,
        retry_rejected=retry_rejected,
        reasons=reason or (),
        unreviewed=unreviewed,
    )
    show(run_annotate(load_config(config), selection, model=model), title="annotate", as_json=json)


def run_annotate(
    config: Config,
    selection: Selection = EVERYTHING,
    *,
    model: str = "champion",
) -> AnnotateSummary:
    """Draft what is not drafted yet; an interrupted run of the same wish is finished first.

    Args:
        config: The configuration.
        selection: Which cases.
        model: Alias or version.

    Raises:
        NothingToDoError: the workspace has no cases.
        ConfigError: no such model, or the cluster cannot hold the actors.
        CountError: rows out differ from cases in.
        TooManyRejectionsError: more than ``annotate.max_rejected_share`` were rejected.
    """
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name, model)
    prompt_version = config.annotate.prompt_version
    engine = settings_hash(config.annotate.engine)
    key = content_id(version, prompt_version, engine, selection.key, length=12)
    run = interrupted = unfinished(workspace, "annotate", key)
    if run is None:
        chooser = Chooser(workspace, version, prompt_version, selection)
        run = _begin(workspace, config, key, chooser)
        if not chooser.counts.cases:
            raise NothingToDoError(f"{workspace.uri} holds no cases; run `sonoloop index` first")
        if run is None:
            return _summary(version, [], RunCounts(), seconds=0.0, resumed=False)
    else:
        progress.print(f"annotate: continuing interrupted run {run.run_id}")
    with ray_session(config.ray):
        counts = _draft(workspace, config, run, version)
    seconds = run.finished(workspace, _plain(counts)).seconds or 0.0
    summary = _summary(version, [run.run_id], counts, seconds=seconds, resumed=interrupted is not None)
    if summary.rejected > config.annotate.max_rejected_share * summary.cases:
        raise TooManyRejectionsError(
            f"{summary.rejected} of {summary.cases} cases were rejected, above annotate.max_rejected_share; "
            f"reasons: {summary.rejected_by_reason}"
        )
    return summary


def _begin(workspace: Store, config: Config, key: str, chooser: Chooser) -> Run | None:
    """Plan a run: its units are fixed from here on; None where there is nothing to draft."""
    run_id = f"annotate-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    cases_per_unit = config.annotate.cases_per_unit
    num_cases = write_units(workspace, run_id, chooser.choose(), cases_per_unit=cases_per_unit)
    return start_run(workspace, "annotate", run_id=run_id, key=key, config=config) if num_cases else None


def _draft(workspace: Store, config: Config, run: Run, version: str) -> RunCounts:
    """Do what is left of a run; returns what the whole run made."""
    num_cases = InputParts(workspace, run.run_id).num_cases
    with stage("annotate") as counts, counted("annotate", num_cases) as counter:
        write_drafts(
            RunContext(
                workspace=workspace,
                run_id=run.run_id,
                model_version=version,
                prompt_version=config.annotate.prompt_version,
                config_hash=run.key,
                config=config.annotate,
                counter=counter,
            )
        )
        made = close_run(workspace, run.run_id)
        counts.update(_plain(made))
    return made


def _plain(counts: RunCounts) -> dict[str, int]:
    return {"cases": counts.cases, "drafted": counts.drafted, "rejected": counts.rejected}


def _summary(
    version: str, run_ids: list[str], counts: RunCounts, *, seconds: float, resumed: bool
) -> AnnotateSummary:
    return AnnotateSummary(
        run_ids=run_ids,
        model_version=version,
        resumed=resumed,
        rejected_by_reason=dict(counts.reasons),
        cases_per_s=counts.cases / seconds if seconds else 0.0,
        **_plain(counts),
    )
