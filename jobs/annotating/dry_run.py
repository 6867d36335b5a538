"""``sonoloop annotate --dry-run``: what would be done, how long it may take and what it may cost."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.annotating.figures import last_rates, money
from sonoloop.jobs.annotating.plan import Job, check_counts, chooser_of, unfinished_runs
from sonoloop.jobs.annotating.selection import SelectionCounts
from sonoloop.jobs.annotating.units import InputParts
from sonoloop.jobs.runs import Run
from sonoloop.platform.sorted_rooms import DRAFTS, files_of


class AnnotatePlan(BaseModel):
    """What ``sonoloop annotate`` would do: ``--dry-run``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model_version: str
    prompt_version: str
    continues: str | None
    cases: dict[str, int]
    units: int
    cases_per_unit: int
    model_actors: str
    holding: str
    preparers: str
    estimated_seconds: float | None = Field(default=None, description="of the work, without its start")
    estimated_cost: str | None = Field(default=None, description="null where no prices were set")
    estimated_from: str | None = Field(default=None, description="the run whose figures these are")


def dry_run(job: Job) -> AnnotatePlan:
    """Count without writing anything.

    Raises:
        NothingToDoError: the workspace has no cases.
    """
    held_by, mine = unfinished_runs(job)
    counts = _counted(job, held_by) if mine is None else _left_of(job, mine)
    config = job.config.annotate
    return AnnotatePlan(
        model_version=job.model_version,
        prompt_version=job.prompt_version,
        continues=mine.run_id if mine else None,
        cases=asdict(counts),
        units=math.ceil(counts.selected / config.cases_per_unit),
        cases_per_unit=config.cases_per_unit,
        model_actors=_range(config.num_actors, config.most_actors),
        holding=_shares(config.cpus_per_actor, config.gpus_per_actor, config.actor_resources),
        preparers=_range(1, config.max_preparers),
        **_estimate(job, counts.selected),
    )


def _counted(job: Job, held_by: list[str]) -> SelectionCounts:
    chooser = chooser_of(job, held_by)
    for _ in chooser.choose():
        pass
    check_counts(job, chooser.counts)
    return chooser.counts


def _left_of(job: Job, run: Run) -> SelectionCounts:
    """What an interrupted run has and has not done."""
    num_cases = InputParts(job.workspace, run.run_id).num_cases
    num_done = sum(file.num_rows for file in files_of(job.workspace, DRAFTS, run.run_id))
    return SelectionCounts(cases=num_cases, selected=num_cases - num_done, drafted=num_done)


def _estimate(job: Job, num_cases: int) -> dict[str, Any]:
    """From the newest finished run of the model; the slower of the two stages sets the time."""
    config, rates = job.config.annotate, last_rates(job.workspace, job.model_version)
    if rates is None:
        return {}
    draft_s = rates.draft_s_per_case / config.most_actors
    prepare_s = rates.prepare_s_per_case / config.max_preparers
    cost = rates.cost_per_case
    return {
        "estimated_seconds": num_cases * max(draft_s, prepare_s),
        "estimated_cost": None if cost is None else money(num_cases * cost, rates.currency),
        "estimated_from": rates.run_id,
    }


def _range(fewest: int, most: int) -> str:
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"


def _shares(cpus: float, gpus: float, resources: dict[str, float]) -> str:
    shares = {"CPU": cpus, "GPU": gpus, **resources}
    return ", ".join(f"{amount:g} {name}" for name, amount in shares.items() if amount)
