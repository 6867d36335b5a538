"""What a training worker is given, and how it begins.

Whoever starts workers imports this, Ray Train's controller among them, and none of it needs the model: the
rest is imported where a rank is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.model.engine_config import EngineConfig
from sonoloop.platform import logs
from sonoloop.platform.errors import ServiceError, SonoloopError
from sonoloop.platform.workspace import Store

FOLDER = "train"
"""Of a run: where Ray Train keeps checkpoints, and its own record of them."""


class DivergedError(ServiceError):
    """The loss is no number any more; going on from a checkpoint would come to the same."""


@dataclass(frozen=True)
class TrainingTask:
    """Everything a worker needs; picklable."""

    workspace: Store
    run_id: str
    base: str
    snapshot: str
    config: FinetuneConfig
    reading: EngineConfig
    """How drafting reads and words a case; training does the same."""
    tally: Any


def train_worker(task: dict[str, TrainingTask]) -> None:
    """Train one rank, from the last checkpoint where there is one.

    Raises:
        SonoloopError: it cannot go on; the tally knows why, and a worker that is started again ends at once.
            A loss that is lost is known to all ranks, so they end by themselves.
    """
    job = task["task"]
    logs.in_run(job.run_id)
    if ray.get(job.tally.reason.remote()) is not None:
        return
    from sonoloop.jobs.finetuning.worker import train_rank

    try:
        train_rank(job)
    except SonoloopError as err:
        ray.get(job.tally.stop.remote(err))
        if not isinstance(err, DivergedError):
            raise
