"""``sonoloop annotate``: a draft or a rejection for every case that has none of this model version."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.drafting import write_drafts
from sonoloop.jobs.output import ConfigOption, JsonOption, progress, show
from sonoloop.jobs.progress import counted
from sonoloop.jobs.runs import Run, ray_session, stage, start_run, unfinished
from sonoloop.platform import registry
from sonoloop.platform.errors import CountError, NothingToDoError, TooManyRejectionsError
from sonoloop.platform.records import CaseRecord, DraftRecord, content_id
from sonoloop.platform.settings import settings_hash
from sonoloop.platform.tables import read_cases, read_drafts
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
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many cases.")] = None,
    retry_rejected: Annotated[bool, typer.Option(help="Also draft what was rejected before.")] = False,
    json: JsonOption = False,
) -> None:
    """Draft a report and entities for every case."""
    summary = run_annotate(load_config(config), model=model, limit=limit, retry_rejected=retry_rejected)
    show(summary, title="annotate", as_json=json)


def run_annotate(
    config: Config,
    *,
    model: str = "champion",
    case_ids: frozenset[str] | None = None,
    limit: int | None = None,
    retry_rejected: bool = False,
) -> AnnotateSummary:
    """Draft what is not drafted yet; an interrupted run of the same work is finished first.

    Args:
        config: The configuration.
        model: Alias or version.
        case_ids: Only these cases, where given.
        limit: At most so many cases.
        retry_rejected: Draft rejected cases again.

    Raises:
        NothingToDoError: the workspace has no cases.
        ConfigError: no such model, or the cluster cannot hold the actors.
        CountError: rows out differ from cases in.
        TooManyRejectionsError: more than ``annotate.max_rejected_share`` were rejected.
    """
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name, model)
    key = content_id(version, config.annotate.prompt_version, settings_hash(config.annotate), length=12)
    interrupted = unfinished(workspace, "annotate", key)
    rows: list[DraftRecord] = []
    seconds = 0.0
    chosen = _undrafted(workspace, config, version, case_ids, retry_rejected)[:limit]
    if interrupted is None and not chosen:
        return _summary(version, [], seconds=0.0, resumed=False)
    with ray_session(config.ray):
        if interrupted is not None:
            progress.print(f"annotate: continuing interrupted run {interrupted.run_id}")
            rows, seconds = _draft(workspace, config, interrupted, version)
            chosen = _undrafted(workspace, config, version, case_ids, retry_rejected)[:limit]
        if chosen:
            fresh, taken = _draft(workspace, config, _begin(workspace, config, key, chosen), version)
            rows, seconds = rows + fresh, seconds + taken
    summary = _summary(version, rows, seconds=seconds, resumed=interrupted is not None)
    if summary.rejected > config.annotate.max_rejected_share * len(rows):
        raise TooManyRejectionsError(
            f"{summary.rejected} of {len(rows)} cases were rejected, above annotate.max_rejected_share; "
            f"reasons: {summary.rejected_by_reason}"
        )
    return summary


def _undrafted(
    workspace: Store, config: Config, version: str, case_ids: frozenset[str] | None, retry_rejected: bool
) -> list[CaseRecord]:
    cases = read_cases(workspace)
    if not cases:
        raise NothingToDoError(f"{workspace.uri} holds no cases; run `sonoloop index` first")
    drafts = read_drafts(workspace, model_version=version, prompt_version=config.annotate.prompt_version)
    done = {d.case_id for d in drafts if d.status == "draft" or not retry_rejected}
    wanted = (case for case in cases if case_ids is None or case.case_id in case_ids)
    return [case for case in wanted if case.case_id not in done]


def _begin(workspace: Store, config: Config, key: str, cases: list[CaseRecord]) -> Run:
    num_before = len(read_drafts(workspace))  # a retry of the same cases is another run
    run_id = f"annotate-{content_id(key, str(num_before), *(case.case_id for case in cases), length=12)}"
    workspace.write_table(CaseRecord.table(cases), "runs", run_id, "input", "cases.parquet")
    return start_run(workspace, "annotate", run_id=run_id, key=key, config=config)


def _draft(workspace: Store, config: Config, run: Run, version: str) -> tuple[list[DraftRecord], float]:
    """Do what is left of a run; returns all its rows and the seconds since it began."""
    inputs = workspace.read_tables(CaseRecord.ARROW, "runs", run.run_id, "input")
    case_ids: list[str] = inputs.column("case_id").to_pylist()
    with stage("annotate") as counts, counted("annotate", len(case_ids)) as counter:
        write_drafts(
            workspace,
            run,
            model_version=version,
            prompt_version=config.annotate.prompt_version,
            config=config.annotate,
            counter=counter,
        )
        table = workspace.read_tables(DraftRecord.ARROW, "drafts", run.run_id)
        written: list[str] = table.column("case_id").to_pylist()
        if sorted(written) != sorted(case_ids):
            raise CountError(
                f"run {run.run_id}: {len(case_ids)} cases in, {len(set(written))} different cases in "
                f"{len(written)} rows out; run the same command again"
            )
        rows = [DraftRecord.from_row(row) for row in table.to_pylist()]
        rejected = sum(row.status == "rejected" for row in rows)
        counts.update(cases=len(rows), drafted=len(rows) - rejected, rejected=rejected)
    return rows, run.finished(workspace, counts).seconds or 0.0


def _summary(version: str, rows: list[DraftRecord], *, seconds: float, resumed: bool) -> AnnotateSummary:
    rejected = [row for row in rows if row.status == "rejected"]
    return AnnotateSummary(
        run_ids=sorted({row.run_id for row in rows}),
        model_version=version,
        resumed=resumed,
        cases=len(rows),
        drafted=len(rows) - len(rejected),
        rejected=len(rejected),
        rejected_by_reason=dict(Counter(str(row.reason) for row in rejected)),
        cases_per_s=len(rows) / seconds if seconds else 0.0,
    )
