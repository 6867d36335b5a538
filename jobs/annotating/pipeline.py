"""The drafting pipeline on Ray Data: units in, exactly one draft or rejection per case out.

read units -> fetch and prepare images (CPU actors) -> draft (model actors) -> Parquet, with Ray Data's
two-phase checkpoint. Both pools grow with the work. What waits between the stages is bounded in bytes.
Whatever is killed, Ray does again what it was doing (actors restart, tasks and lost blocks are made anew),
and a unit done again is the same file; a store that is away is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.data.checkpoint import CheckpointConfig

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.drafter import Drafter
from sonoloop.jobs.annotating.patience import through_outages
from sonoloop.jobs.annotating.placement import check_schedulable, model_pool
from sonoloop.jobs.annotating.preparing import Preparer
from sonoloop.jobs.annotating.sink import DraftSink

TRANSIENT_ERRORS = ("HTTP status 5", "AWS Error REQUEST_TIMEOUT", "AWS Error THROTTLING")
"""What Ray Data tries again, beside its own list, in what it reads and writes by itself."""
FILTER_BYTES = 2**28
"""Memory of the checkpoint's filter (109 MiB measured): Ray Data's own 1 GiB would not fit a small node."""


@dataclass(frozen=True)
class Stages:
    """What prepares and what drafts; a benchmark puts others in their place.

    Attributes:
        prepare: Called with a table of units, gives a table of ``unit, prepared``.
        draft: Called with that, gives tables of `DraftRecord`, one per unit.
    """

    prepare: type = Preparer
    draft: type = Drafter


def write_drafts(run: RunContext, stages: Stages = Stages()) -> None:  # noqa: B008 - frozen
    """Draft the units of ``runs/<run_id>/input/`` into ``drafts/<run_id>/``.

    Killed at any moment and called again, it does the units that are missing and none twice.

    Raises:
        ConfigError: the cluster cannot hold the actors.
        UnreachableError: the store was away for longer than ``annotate.storage_patience_s``.
    """
    check_schedulable(run.config)
    through_outages(run.workspace, run.config.storage_patience_s, _write, run, stages)


def _write(run: RunContext, stages: Stages) -> None:
    workspace, config = run.workspace, run.config
    with _settings(run):
        units = ray.data.read_parquet(
            workspace.path("runs", run.run_id, "input"), filesystem=workspace.fs
        ).repartition(target_num_rows_per_block=1)  # a block is what a task takes and what is written at once
        prepared = units.map_batches(
            stages.prepare,
            fn_constructor_args=(run,),
            compute=ActorPoolStrategy(min_size=1, max_size=config.max_preparers),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=config.cpus_per_preparer,
            resources=config.preparer_resources,
        )
        drafts = prepared.map_batches(
            stages.draft,
            fn_constructor_args=(run,),
            batch_size=1,
            batch_format="pyarrow",
            **model_pool(config),
        )
        drafts.write_datasink(DraftSink(run))


@contextmanager
def _settings(run: RunContext) -> Iterator[None]:
    """Ray Data's settings for the length of one pipeline."""
    context = DataContext.get_current().copy()
    context.use_datasource_v2 = False  # the V2 reader merges small files into one block: one grain for all
    context.retried_io_errors = [*context.retried_io_errors, *TRANSIENT_ERRORS]
    context.checkpoint_config = _checkpoint(run)
    if run.config.waiting_mib is not None:
        limit = ExecutionResources.for_limits(object_store_memory=run.config.waiting_mib * 2**20)
        context.execution_options.resource_limits = limit
    with DataContext.current(context):
        yield


def _checkpoint(run: RunContext) -> CheckpointConfig:
    """What is durable is known by its unit."""
    checkpoint = CheckpointConfig(
        id_column="unit",
        checkpoint_path=run.workspace.path("runs", run.run_id, "checkpoint"),
        override_filesystem=run.workspace.fs,
        delete_checkpoint_on_success=False,
    )
    checkpoint.checkpoint_actor_pool_max_size = 1  # more would take the CPUs of the model actors
    checkpoint.checkpoint_actor_memory_bytes = FILTER_BYTES
    return checkpoint
