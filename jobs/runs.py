"""Runs: what was asked, with which configuration, and what came of it; ``runs/<run_id>/run.json``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import ray
from pydantic import BaseModel, ConfigDict
from ray.data import DataContext
from ray.exceptions import RayTaskError

from sonoloop.platform import logs
from sonoloop.platform.cluster import RayConfig, joins_cluster
from sonoloop.platform.errors import SonoloopError
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)
RUNS_READ_AT_ONCE = 16
_ENGINES = ("sonoloop", "ray", "torch", "transformers")


class Run(BaseModel):
    """One run of a verb. ``key`` names the same work: an interrupted run of it can be gone on with."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run_id: str
    verb: str
    key: str
    state: Literal["running", "finished", "failed"]
    started_at: datetime
    seconds: float | None = None
    counts: dict[str, int] = {}
    figures: dict[str, float] = {}
    reason: str | None = None
    config: dict[str, Any] = {}
    versions: dict[str, str] = {}

    def write(self, workspace: Store) -> None:
        """Store the run's state; a run has one writer."""
        workspace.write_bytes(self.model_dump_json(indent=2).encode(), "runs", self.run_id, "run.json")

    def finished(
        self, workspace: Store, counts: dict[str, int], *, figures: dict[str, float] | None = None
    ) -> Run:
        """Mark the run finished, with its counts, figures and the seconds since it began."""
        return self._ended(workspace, state="finished", counts=counts, figures=figures or {})

    def failed(self, workspace: Store, reason: str) -> Run:
        """Mark the run failed: it is not gone on with."""
        return self._ended(workspace, state="failed", reason=reason)

    def _ended(self, workspace: Store, **changes: Any) -> Run:
        seconds = (datetime.now(UTC) - self.started_at).total_seconds()
        done = self.model_copy(update={"seconds": seconds, **changes})
        done.write(workspace)
        logs.in_run(None)
        return done


def start_run(workspace: Store, verb: str, *, run_id: str, key: str, config: BaseModel) -> Run:
    """Write down that a run begins, with its resolved configuration and the engines' versions."""
    run = Run(
        run_id=run_id,
        verb=verb,
        key=key,
        state="running",
        started_at=datetime.now(UTC),
        config=config.model_dump(mode="json"),
        versions={name: version(name) for name in _ENGINES},
    )
    run.write(workspace)
    logs.in_run(run_id)
    return run


def read_runs(workspace: Store) -> list[Run]:
    """All runs, oldest first."""
    with ThreadPoolExecutor(RUNS_READ_AT_ONCE) as pool:
        found = pool.map(lambda name: read_run(workspace, name), workspace.folders("runs"))
        return sorted(filter(None, found), key=lambda run: run.started_at)


def read_run(workspace: Store, run_id: str) -> Run | None:
    """One run; None where there is no such, or not yet."""
    try:
        return Run.model_validate_json(workspace.read_bytes("runs", run_id, "run.json"))
    except FileNotFoundError:
        return None


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Ray for the length of a job: the one already connected, the configured one, or an own one."""
    if ray.is_initialized():
        _quiet_data()
        with _own_errors():
            yield
        return
    ray.init(
        address=None if joins_cluster() else "local",  # not some other Ray that runs on this machine
        num_cpus=None if joins_cluster() else config.num_cpus,
        log_to_driver=False,
        logging_level=logging.WARNING,
        **logs.ray_options(),
    )
    _quiet_data()
    try:
        with _own_errors():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _own_errors() -> Iterator[None]:
    """Our errors as a worker raised them: Ray gives them its own class and lines of its own."""
    try:
        yield
    except RayTaskError as err:
        if not isinstance(err.cause, SonoloopError):
            raise
        err.cause.args = (str(err.cause).partition("\n")[0],)
        raise err.cause from None


@contextmanager
def stage(name: str) -> Iterator[dict[str, int]]:
    """One INFO line at a stage's start and one at its end, with the counts put in and the seconds."""
    counts: dict[str, int] = {}
    logger.info("%s: start", name)
    begin = time.monotonic()
    yield counts
    logger.info("%s: end, %s, %.1f s", name, counts, time.monotonic() - begin)


def _quiet_data() -> None:
    """Ray Data's log lines give way to our own progress, and its wrapping of errors to `_own_errors`."""
    DataContext.get_current().enable_progress_bars = False
    DataContext.get_current().raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the error itself reaches us
