"""``sonoloop annotate``: a draft or a rejection for every case that has none of this model version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.annotating.closing import RunCounts, close_run, forget_checkpoint
from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.dry_run import dry_run
from sonoloop.jobs.annotating.figures import RunSummary, together
from sonoloop.jobs.annotating.guard import guarded, refuse_many_rejections
from sonoloop.jobs.annotating.patience import Patience
from sonoloop.jobs.annotating.pipeline import Stages, write_drafts
from sonoloop.jobs.annotating.plan import Job, begin, open_job
from sonoloop.jobs.annotating.recorder import recorded
from sonoloop.jobs.annotating.selection import EVERYTHING, Selection, read_case_list
from sonoloop.jobs.batch import run_batch
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import Run, ray_session, stage
from sonoloop.platform.errors import ConfigError


class AnnotateSummary(BaseModel):
    """Counts of one annotate run: ``cases = drafted + rejected``; ``held`` are left to runs under way."""

    run_ids: list[str]
    model_version: str
    resumed: bool
    cases: int
    drafted: int
    rejected: int
    rejected_by_reason: dict[str, int]
    held: int
    seconds: float
    cases_per_s: float
    tokens_per_s: float | None
    actor_utilisation: float | None
    draft_s_per_case: float | None
    prepare_s_per_case: float | None
    cost: float | None
    currency: str
    advice: str | None


def annotate(
    config: ConfigOption = "sonoloop.toml",
    model: Annotated[str, typer.Option(help="Alias or version of the model.")] = "champion",
    since: Annotated[datetime | None, typer.Option(help="Only cases indexed since then, UTC.")] = None,
    organ: Annotated[list[str] | None, typer.Option(help="Only this organ; may be repeated.")] = None,
    case_list: Annotated[
        str | None, typer.Option(help="Only the cases of this file, a path or s3:// URI: one id per line.")
    ] = None,
    unreviewed: Annotated[bool, typer.Option("--unreviewed", help="Only cases nobody has reviewed.")] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="So many of them, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Instead of new cases, those rejected before.")
    ] = False,
    reason: Annotated[list[str] | None, typer.Option(help="Of those, only with this reason.")] = None,
    batch: Annotated[
        str | None,
        typer.Option(help="Instead of cases, the requests of an OpenAI batch file: a path or s3:// URI."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Of a batch: where its answers go, likewise.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    json: JsonOption = False,
) -> None:
    """Draft a report and entities for every case."""
    settings = load_config(config)
    selection = Selection.of_options(
        since=since and since.replace(tzinfo=UTC),
        organs=organ or (),
        case_ids=None if case_list is None else read_case_list(case_list, settings.s3),
        unreviewed=unreviewed,
        sample=sample,
        seed=seed,
        limit=limit,
        retry_rejected=retry_rejected,
        reasons=reason or (),
    )
    if batch is not None or output is not None:
        if batch is None or output is None or dry or selection != EVERYTHING:
            raise ConfigError("--batch and --output go together, with --model and no choice of cases")
        show(run_batch(settings, batch, output, model=model), title="annotate: batch", as_json=json)
    elif dry:
        show(dry_run(open_job(settings, selection, model)), title="annotate: dry run", as_json=json)
    else:
        show(run_annotate(settings, selection, model=model), title="annotate", as_json=json)


def run_annotate(
    config: Config,
    selection: Selection = EVERYTHING,
    *,
    model: str = "champion",
    stages: Stages = Stages(),  # noqa: B008 - frozen
) -> AnnotateSummary:
    """Draft what is not drafted yet; an interrupted run of the same wish is finished first.

    Args:
        config: The configuration.
        selection: Which cases.
        model: Alias or version.
        stages: What prepares and what drafts.

    Raises:
        NothingToDoError: the workspace has no cases.
        ConfigError: no such model, or the cluster cannot hold the actors.
        CountError: rows out differ from cases in.
        TooManyRejectionsError: more than ``annotate.max_rejected_share`` were rejected.
    """
    job = open_job(config, selection, model)
    made = RunCounts()
    summaries: list[RunSummary] = []
    run_ids: list[str] = []
    resumed = False
    while True:
        begun = begin(job)
        if begun.run is None or begun.claim is None:
            break
        with begun.claim, ray_session(config.ray):
            counts, figures = _draft(job, begun.run, stages)
            patiently = Patience(config.annotate.storage_patience_s)
            patiently(figures.write, job.workspace)
            patiently(begun.run.finished, job.workspace, _plain(counts))
            patiently(forget_checkpoint, job.workspace, begun.run.run_id)
        made.add(counts)
        summaries.append(figures)
        run_ids.append(begun.run.run_id)
        resumed = resumed or begun.resumed
        if not begun.resumed or selection.is_bounded:
            break  # after a resumed run, there may be cases that came meanwhile
    summary = AnnotateSummary(
        run_ids=run_ids,
        model_version=job.model_version,
        resumed=resumed,
        rejected_by_reason=dict(made.reasons),
        held=begun.counts.held if begun.counts else 0,
        currency=config.cost.currency,
        **_plain(made),
        **together(summaries),
    )
    refuse_many_rejections(config.annotate, made)
    return summary


def _draft(job: Job, run: Run, stages: Stages) -> tuple[RunCounts, RunSummary]:
    """Do what is left of a run; returns what the whole run made, and how."""
    workspace = job.workspace
    with (
        stage("annotate") as counts,
        recorded(job, run) as recorder,
        guarded(job.config.annotate) as guard,
    ):
        write_drafts(
            RunContext(
                workspace=workspace,
                run_id=run.run_id,
                model_version=job.model_version,
                prompt_version=job.prompt_version,
                config_hash=job.config_hash,
                config=job.config.annotate,
                watch=recorder.watch,
                guard=guard,
            ),
            stages,
        )
        made = close_run(workspace, run.run_id, patience_s=job.config.annotate.storage_patience_s)
        counts.update(_plain(made))
        return made, recorder.summary(made)


def _plain(counts: RunCounts) -> dict[str, int]:
    return {"cases": counts.cases, "drafted": counts.drafted, "rejected": counts.rejected}
