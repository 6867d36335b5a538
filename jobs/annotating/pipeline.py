"""The drafting pipeline on Ray Data: units in, exactly one draft or rejection per case out.

read units -> fetch and prepare images (CPU actors) -> draft (model actors) -> Parquet, with Ray Data's
two-phase checkpoint. Both pools grow with the work. What waits between the stages is bounded in bytes by Ray
Data's share of the object store. Annotate and evaluate share it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.drafter import Drafter
from sonoloop.jobs.annotating.preparing import Preparer
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

SPARE_CPUS = 2
"""Reading and the checkpoint's filter hold a logical CPU each beside the actors (measured, Ray 2.60)."""


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
    """
    workspace, config = run.workspace, run.config
    check_schedulable(config)
    with _checkpointed(workspace, run.run_id):
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
            compute=ActorPoolStrategy(min_size=config.num_actors, max_size=config.most_actors),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor,
            resources=config.actor_resources,
        )
        drafts.write_parquet(workspace.path("drafts", run.run_id), filesystem=workspace.fs)


def check_schedulable(config: AnnotateConfig) -> None:
    """Refuse a pool that would wait for CPUs for ever.

    Raises:
        ConfigError: the cluster has too few logical CPUs, GPUs or custom resources for the actors.
    """
    cluster = ray.cluster_resources()
    wanted = {
        "CPU": config.num_actors * config.cpus_per_actor + SPARE_CPUS,
        "GPU": config.num_actors * config.gpus_per_actor,
        **{name: config.num_actors * share for name, share in config.actor_resources.items()},
    }
    for name, amount in wanted.items():
        if cluster.get(name, 0) < amount:
            what = {"CPU": "logical CPUs", "GPU": "GPUs"}.get(name, f"of the resource {name}")
            raise ConfigError(
                f"annotate needs {amount:g} {what}, the cluster has {cluster.get(name, 0):g}; "
                "lower annotate.num_actors or what an actor holds, or add nodes"
            )


@contextmanager
def _checkpointed(workspace: Store, run_id: str) -> Iterator[None]:
    """Ray Data's checkpoint for the length of one pipeline: what is durable is known by its unit."""
    context = DataContext.get_current()
    before = (context.checkpoint_config, context.use_datasource_v2)
    context.use_datasource_v2 = False  # the V2 reader merges small files into one block: one grain for all
    context.checkpoint_config = CheckpointConfig(
        id_column="unit",
        checkpoint_path=workspace.path("runs", run_id, "checkpoint"),
        override_filesystem=workspace.fs,
        delete_checkpoint_on_success=False,
    )
    try:
        yield
    finally:
        context.checkpoint_config, context.use_datasource_v2 = before
