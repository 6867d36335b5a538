"""The beginning of a run: which one is to be done, what it drafts, and that nobody else is at it.

Planning is done by one process at a time for a model and prompt version. What a run under way holds is left
to it; an interrupted run of the same wish is gone on with, less what other runs have drafted since. So every
case is drafted once, whoever starts what.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import pyarrow.compute as pc

from sonoloop.jobs.annotating.selection import Chooser, Selection, SelectionCounts
from sonoloop.jobs.annotating.units import InputParts, drop_attempted, read_part, write_units
from sonoloop.jobs.claims import Claim, HeldError, is_held
from sonoloop.jobs.config import Config
from sonoloop.jobs.output import progress
from sonoloop.jobs.runs import Run, read_runs, start_run
from sonoloop.platform import logs, registry
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.records import content_id
from sonoloop.platform.settings import settings_hash
from sonoloop.platform.sorted_rooms import DRAFTS, KeyRange, RoomReader
from sonoloop.platform.tables import of_version
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

CLAIM = "claim.json"
WAIT_S = 2.0


@dataclass(frozen=True)
class Job:
    """What a person wants drafted, by which model, with which settings."""

    config: Config
    workspace: Store
    model_version: str
    selection: Selection

    @property
    def prompt_version(self) -> str:
        """What the model is asked."""
        return self.config.annotate.prompt_version

    @cached_property
    def config_hash(self) -> str:
        """Of the settings that shape a draft."""
        return settings_hash(self.config.annotate.engine)

    @cached_property
    def drafts_key(self) -> str:
        """Names all runs that write drafts of this model and prompt version."""
        return content_id(self.model_version, self.prompt_version, length=12)

    @cached_property
    def key(self) -> str:
        """Names runs of this very wish: an interrupted one is gone on with."""
        return f"{self.drafts_key}-{content_id(self.config_hash, self.selection.key, length=12)}"


def open_job(config: Config, selection: Selection, model: str) -> Job:
    """Resolve what a person named.

    Raises:
        ConfigError: no such model.
        StorageError: the workspace cannot be reached.
    """
    workspace = config.open_workspace()
    return Job(config, workspace, registry.resolve(workspace, config.model.name, model), selection)


@dataclass(frozen=True)
class Begun:
    """A run that is ours to do; none where nothing is to be drafted.

    Attributes:
        run: The run.
        claim: On it, to be entered for as long as it is worked on.
        resumed: Whether it was interrupted before.
        counts: Where the cases of the workspace went; None for a resumed run.
    """

    run: Run | None
    claim: Claim | None
    resumed: bool
    counts: SelectionCounts | None


def begin(job: Job) -> Begun:
    """Go on with the interrupted run of this wish, or plan one.

    Raises:
        NothingToDoError: the workspace has no cases.
        StorageError: the workspace cannot be reached.
    """
    with _planning(job):
        held_by, mine = unfinished_runs(job)
        for run_id in held_by:
            progress.print(f"annotate: run {run_id} is under way; its cases are left to it")
        return _plan(job, held_by) if mine is None else _resume(job, mine)


def _claim_of(run_id: str) -> tuple[str, ...]:
    return ("runs", run_id, CLAIM)


def unfinished_runs(job: Job) -> tuple[list[str], Run | None]:
    """Runs under way that draft with the same model and prompt, and the interrupted one of this wish."""
    unfinished = [
        run
        for run in read_runs(job.workspace)
        if (run.verb, run.state) == ("annotate", "running") and run.key.startswith(f"{job.drafts_key}-")
    ]
    held_by = [run.run_id for run in unfinished if is_held(job.workspace, *_claim_of(run.run_id))]
    mine = [run for run in unfinished if run.key == job.key and run.run_id not in held_by]
    return held_by, mine[-1] if mine else None


def _resume(job: Job, run: Run) -> Begun:
    claim = Claim(job.workspace, *_claim_of(run.run_id))
    logs.in_run(run.run_id)
    num_dropped = _drop_drafted_elsewhere(job, run.run_id)
    note = f", {num_dropped} cases less: other runs drafted them" if num_dropped else ""
    progress.print(f"annotate: continuing interrupted run {run.run_id}{note}")
    return Begun(run, claim, resumed=True, counts=None)


def _plan(job: Job, held_by: list[str]) -> Begun:
    chooser = chooser_of(job, held_by)
    run_id = f"annotate-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    size = job.config.annotate.cases_per_unit
    num_cases = write_units(job.workspace, run_id, chooser.choose(), cases_per_unit=size)
    check_counts(job, chooser.counts)
    if not num_cases:
        return Begun(None, None, resumed=False, counts=chooser.counts)
    claim = Claim(job.workspace, *_claim_of(run_id))
    run = start_run(job.workspace, "annotate", run_id=run_id, key=job.key, config=job.config)
    return Begun(run, claim, resumed=False, counts=chooser.counts)


def chooser_of(job: Job, held_by: list[str]) -> Chooser:
    """What chooses the job's cases, those of runs under way left out."""
    return Chooser(job.workspace, job.model_version, job.prompt_version, job.selection, held_by=held_by)


def check_counts(job: Job, counts: SelectionCounts) -> None:
    """Say what a person should know of the choice.

    Raises:
        NothingToDoError: the workspace has no cases.
    """
    if not counts.cases:
        raise NothingToDoError(f"{job.workspace.uri} holds no cases; run `sonoloop index` first")
    if counts.unknown:
        progress.print(f"annotate: {counts.unknown} of the cases named are not in the workspace")


@contextmanager
def _planning(job: Job) -> Iterator[None]:
    """Wait until nobody else plans for the same model and prompt version."""
    place = ("runs", f"planning-{job.drafts_key}", CLAIM)
    said = False
    while True:
        try:
            claim = Claim(job.workspace, *place)
            break
        except HeldError as err:
            if not said:
                progress.print(f"annotate: waiting, another process is planning ({err.holder.host})")
            said = True
            time.sleep(WAIT_S)
    with claim:
        yield


def _drop_drafted_elsewhere(job: Job, run_id: str) -> int:
    """Take out of a run's input what later runs drafted while it lay; returns how many cases."""
    where = of_version(job.model_version, job.prompt_version)
    drafts = RoomReader(job.workspace, DRAFTS, columns=("run_id", "status"), where=where)
    inputs = InputParts(job.workspace, run_id)
    num_dropped = 0
    for file in inputs.files:
        part = read_part(job.workspace, file)
        found = drafts.read(KeyRange(file.first, file.last + "\0"))
        others = found.filter(pc.not_equal(found["run_id"], run_id)).select(["case_id", "attempts"])
        attempts = {row["case_id"]: row["attempts"] or 0 for row in others.to_pylist()}
        num_dropped += drop_attempted(job.workspace, file, part, attempts)
    return num_dropped
