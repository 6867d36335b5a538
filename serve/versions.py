"""Model versions on Ray Serve: each is an application of its own, so that one can come up or fail, and
another finish what it began, without touching the others.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ReplicaState

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.workspace import store_of
from sonoloop.serve.champion import Champion
from sonoloop.serve.config import ServeConfig, ServeSettings

logger = logging.getLogger(__name__)

PREFIX = "champion-"
LOOK_EVERY_S = 0.2
HEALTH_CHECK_PERIOD_S = 2
"""How soon Serve notices that a replica is gone."""
LOAD_ATTEMPTS = 2
HEAPS = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives threads heaps of their own, 8 a core, and what an answer left in one is of no use in another: a
replica under a steady load grew by 30 MiB a minute (benchmarks/README.md)."""
LOOK_BACK_S = 15
"""Load is a mean over this time, so that one burst adds no replica; replicas tell theirs every 10 s."""


def application_name(version: str) -> str:
    """What a version's application is called; it becomes part of file names."""
    return PREFIX + version.replace("/", ".")


def applications() -> dict[str, ApplicationStatusOverview]:
    """The versions on Serve and how they are, the oldest first."""
    found = sorted(serve.status().applications.items(), key=lambda item: item[1].last_deployed_time_s)
    return {
        "/".join(name.removeprefix(PREFIX).rsplit(".", 1)): status
        for name, status in found
        if name.startswith(PREFIX)
    }


def is_up(status: ApplicationStatusOverview) -> bool:
    """Whether it has come up; a replica may just be replaced."""
    return status.status in (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY)


def num_running(status: ApplicationStatusOverview) -> int:
    """Replicas that have loaded the version and answer."""
    return sum(d.replica_states.get(ReplicaState.RUNNING, 0) for d in status.deployments.values())


def start_version(settings: ServeSettings, version: str, *, num_replicas: int) -> None:
    """Bring a version up; one that is up already is left as it is.

    Args:
        settings: Where the model lies and how it is served.
        version: ``<name>/<version>``.
        num_replicas: Replicas to begin with, within the configured range.

    Raises:
        ServiceError: it does not load or answer, or not in time; nothing of it is left.
    """
    known = applications().get(version)
    if known is not None and is_up(known):
        return
    if known is not None:
        remove_version(version)
    target = serve.RunTarget(
        _application(settings, version, num_replicas), name=application_name(version), route_prefix=None
    )
    serve.run_many([target], wait_for_applications_running=False)
    try:
        _wait_until_up(version, settings.serve.start_timeout_s)
    except ServiceError:
        remove_version(version)
        raise


def remove_version(version: str) -> None:
    """Take a version away; its replicas finish what they are at, within their time."""
    serve.delete(application_name(version))


def _wait_until_up(version: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = applications().get(version)
        if found is not None and found.status is ApplicationStatus.RUNNING:
            return
        if found is not None and found.status in (
            ApplicationStatus.DEPLOY_FAILED,
            ApplicationStatus.UNHEALTHY,
        ):
            raise ServiceError(f"{version} could not be served: {_reason(found)}")
        time.sleep(LOOK_EVERY_S)
    raise ServiceError(
        f"{version} did not come up within {timeout_s:g} s; is there room for its replicas beside the ones "
        "that serve? If it only needs longer, raise serve.start_timeout_s"
    )


def _reason(status: ApplicationStatusOverview) -> str:
    """The last line of what Serve tells: the error that a constructor raised."""
    told = [status.message, *(d.message for d in status.deployments.values())]
    lines = [line.strip() for text in told for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else str(status.status)


def _application(settings: ServeSettings, version: str, num_replicas: int) -> Any:
    config = settings.serve
    deployment = serve.deployment(
        Champion,
        autoscaling_config=_scaling(config, num_replicas),
        max_ongoing_requests=config.ongoing_per_replica,
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
            "runtime_env": {"env_vars": HEAPS},
        },
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        graceful_shutdown_timeout_s=config.longest_answer_s,  # one that is scaled away finishes its streams
        max_constructor_retry_count=LOAD_ATTEMPTS,
    )
    workspace = store_of(settings.workspace, settings.s3)
    return deployment.bind(workspace, version, config.engine, config.ongoing_per_replica, settings.log)


def _scaling(config: ServeConfig, num_replicas: int) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=config.min_replicas,
        max_replicas=config.max_replicas,
        initial_replicas=min(config.max_replicas, max(1, config.min_replicas, num_replicas)),
        target_ongoing_requests=config.target_ongoing or 0.75 * config.ongoing_per_replica,
        look_back_period_s=LOOK_BACK_S,
        upscale_delay_s=config.upscale_delay_s,
        downscale_delay_s=config.downscale_delay_s,
    )
