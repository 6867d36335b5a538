"""The driver's side of a run's watch: shows it, prices it, and keeps it in the workspace."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from sonoloop.jobs.annotating.closing import RunCounts
from sonoloop.jobs.annotating.cost import CostMeter
from sonoloop.jobs.annotating.figures import Figures, RunProgress, RunSummary, now
from sonoloop.jobs.annotating.plan import Job
from sonoloop.jobs.annotating.units import InputParts
from sonoloop.jobs.annotating.watch import Watch
from sonoloop.jobs.output import progress as console
from sonoloop.jobs.progress import Standing, asked, on_this_node, shown
from sonoloop.jobs.runs import Run
from sonoloop.platform.errors import StorageError
from sonoloop.platform.sorted_rooms import DRAFTS, files_of

logger = logging.getLogger(__name__)

RECORD_EVERY_S = 5.0
LAST_WORD_S = 60.0
"""For the watch to tell the figures of a run that is done."""


class Recorder:
    """Keeps the figures of a run while it is under way.

    Args:
        job: What is drafted.
        run: The run.
        num_cases: Its cases.
    """

    def __init__(self, job: Job, run: Run, num_cases: int) -> None:
        self._job, self._run, self._num_cases = job, run, num_cases
        self._began = time.monotonic()
        self._figures = Figures(cases=num_cases)
        earlier = RunProgress.read(job.workspace, run.run_id)
        prices = job.config.cost.node_hour
        before = earlier.cost if earlier else None
        self._meter = CostMeter(prices, before or 0.0) if prices else None
        self._said_advice = self._said_unpriced = False
        self.watch: Any = Watch.options(  # type: ignore[attr-defined]
            scheduling_strategy=on_this_node()
        ).remote(run.run_id, job.config.annotate, num_cases)

    def look(self) -> Standing:
        """How far the run is."""
        return self._progress(RECORD_EVERY_S).standing()

    def record(self, *, timeout_s: float = RECORD_EVERY_S) -> None:
        """Look at the nodes, say what there is to say, and write the progress down."""
        if self._meter is not None:
            self._meter.look(ray.nodes(), time.monotonic())
            self.watch.spent.remote(self._meter.total, self._job.config.cost.currency)
        progress = self._progress(timeout_s)
        self._say(progress.figures)
        try:
            progress.write(self._job.workspace)
        except StorageError as err:  # the next one may come through
            logger.warning("the progress of the run could not be written (%s)", type(err).__name__)

    def count_durable(self) -> None:
        """Tell the watch what earlier attempts at this run have left."""
        try:
            files = files_of(self._job.workspace, DRAFTS, self._run.run_id)
        except StorageError as err:
            logger.warning("drafts of earlier attempts could not be counted (%s)", type(err).__name__)
            return
        self.watch.before.remote(sum(file.num_rows for file in files))

    def summary(self, made: RunCounts) -> RunSummary:
        """The figures of the whole run; what its drafts say counts, not what was reported."""
        self.record(timeout_s=LAST_WORD_S)
        figures, size = self._figures, self._run.config["annotate"]["cases_per_unit"]
        draft_s = figures.draft_s_per_case
        return RunSummary(
            run_id=self._run.run_id,
            model_version=self._job.model_version,
            prompt_version=self._job.prompt_version,
            config_hash=self._job.config_hash,
            versions=self._run.versions,
            finished_at=now(),
            cases=made.cases,
            drafted=made.drafted,
            rejected=made.rejected,
            rejected_by_reason=dict(made.reasons),
            units=math.ceil(made.cases / size),
            cases_per_unit=size,
            cases_now=figures.done_now,
            seconds=time.monotonic() - self._began,
            cases_per_s=figures.cases_per_s,
            tokens=made.num_tokens,
            tokens_per_s=figures.tokens_per_s,
            actors=figures.actors,
            actor_utilisation=figures.actor_utilisation,
            draft_s_per_case=draft_s,
            preparers=figures.preparers,
            prepare_s_per_case=figures.prepare_s_per_case,
            grain_s=None if draft_s is None else size * draft_s,
            cost=self._cost(),
            currency=self._job.config.cost.currency,
            advice=figures.advice,
        )

    def _progress(self, timeout_s: float) -> RunProgress:
        self._figures = asked(self.watch.read, timeout_s=timeout_s) or self._figures
        return RunProgress(
            run_id=self._run.run_id,
            model_version=self._job.model_version,
            prompt_version=self._job.prompt_version,
            updated_at=now(),
            figures=self._figures,
            cost=self._cost(),
            currency=self._job.config.cost.currency,
        )

    def _cost(self) -> float | None:
        return None if self._meter is None else self._meter.total

    def _say(self, figures: Figures) -> None:
        if figures.advice and not self._said_advice:
            self._said_advice = True
            console.print(f"annotate: {figures.advice}")
        if self._meter is not None and self._meter.num_unpriced and not self._said_unpriced:
            self._said_unpriced = True
            console.print(
                f"annotate: {self._meter.num_unpriced} nodes have none of the resources and labels that "
                "cost.node_hour names; they count as free"
            )


@contextmanager
def recorded(job: Job, run: Run) -> Iterator[Recorder]:
    """A run's `Recorder`, which shows and writes its progress until the block ends."""
    recorder = Recorder(job, run, InputParts(job.workspace, run.run_id).num_cases)
    stop = threading.Event()
    thread = threading.Thread(target=_keep_recording, args=(recorder, stop), daemon=True)
    thread.start()
    try:
        with shown("annotate", recorder.look):
            yield recorder
    finally:
        stop.set()
        thread.join()
        ray.kill(recorder.watch)


def _keep_recording(recorder: Recorder, stop: threading.Event) -> None:
    recorder.count_durable()
    recorder.record()
    while not stop.wait(RECORD_EVERY_S):
        recorder.record()
