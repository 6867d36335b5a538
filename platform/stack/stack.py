"""Start, describe and stop the local stack of one state folder.

| file under the folder | mode | what it holds |
|---|---|---|
| ``s3.json`` | 0600 | SeaweedFS's identity: access key and secret key |
| ``labelstudio.json`` | 0600 | username, password, personal access token |
| ``labelstudio-database.json`` | 0600 | address and password of PostgreSQL, where that is chosen |
| ``ray-token`` | 0600 | the Ray cluster's token |
| ``secrets.json`` | 0600 | ``SONOLOOP_PSEUDONYM_KEY``, ``SONOLOOP_API_KEY`` |
| ``env`` | 0600 | all of `environment.environment`, as ``export`` lines: ``. .sonoloop/env`` |
| ``stack.json`` | 0600 | `StackInfo`: addresses, no secret |
| ``ports.json``, ``run/``, ``logs/`` | private | ports by name, pid files, logs |
| ``s3/``, ``labelstudio/``, ``postgres/`` | private | the services' data |

Keys, ports and data stay when the stack stops; the same folder comes up with the same addresses and tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.stack import labelstudio, ports, postgres, processes, ray_head, s3
from sonoloop.platform.stack.environment import StackInfo, info, info_file, publish, variables_of, withdraw
from sonoloop.platform.stack.files import OnProgress, locked, private_folder
from sonoloop.platform.stack.labelstudio import LabelStudioConfig
from sonoloop.platform.stack.ray_head import RayConfig
from sonoloop.platform.stack.s3 import S3Config

logger = logging.getLogger(__name__)


class Component(StrEnum):
    """A service of the stack; the value is also its process name."""

    S3 = s3.NAME
    LABELSTUDIO = labelstudio.NAME
    RAY = ray_head.NAME


_PORT_NAMES = {
    Component.S3: s3.PORT_NAMES,
    Component.LABELSTUDIO: labelstudio.PORT_NAMES,
    Component.RAY: ray_head.PORT_NAMES,
}


class StackConfig(BaseModel):
    """What `start` brings up, and where its state lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(default=Path(".sonoloop"), description="state folder")
    components: tuple[Component, ...] = Field(
        default=tuple(Component), min_length=1, description="what to start"
    )
    s3: S3Config = Field(default_factory=S3Config, description="the local S3")
    labelstudio: LabelStudioConfig = Field(
        default_factory=LabelStudioConfig, description="the local Label Studio"
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="the local Ray head")
    timeout_s: float = Field(default=240, gt=0, description="how long one service may take to work, seconds")


def _quiet(_line: str) -> None:
    """Progress for nobody."""


def _previous(folder: Path) -> StackInfo:
    blank = StackInfo(folder=folder, env_file=folder / "env")
    return info(folder) if info_file(folder).exists() else blank


def _plan(config: StackConfig, folder: Path, assigned: dict[str, int]) -> StackInfo:
    """What the stack will be: earlier components that still run, and the ones asked for."""
    earlier = _previous(folder)
    changes: dict[str, object] = {}
    for component in Component:
        wanted = component in config.components
        runs = wanted or processes.is_alive(processes.read(folder, component))
        if component is Component.S3:
            buckets = tuple(dict.fromkeys((*earlier.buckets, *(config.s3.buckets if wanted else ()))))
            changes["s3_endpoint"] = s3.endpoint(assigned) if runs else None
            changes["buckets"] = buckets if runs else ()
            changes["image_bucket"] = (
                (config.s3.image_bucket if wanted else earlier.image_bucket) if runs else None
            )
        elif component is Component.LABELSTUDIO:
            account = (
                labelstudio.load_or_create_account(folder, config.labelstudio.username) if runs else None
            )
            changes["labelstudio_url"] = labelstudio.url(assigned) if runs else None
            changes["labelstudio_username"] = account.username if account else None
            changes["labelstudio_account_file"] = labelstudio.account_file(folder) if runs else None
        else:
            changes["ray_address"] = ray_head.address(assigned) if runs else None
            changes["dashboard_url"] = ray_head.dashboard_url(assigned) if runs else None
    return earlier.model_copy(update=changes)


def _starter(
    component: Component,
    config: StackConfig,
    planned: StackInfo,
    assigned: dict[str, int],
    on_progress: OnProgress,
) -> Callable[[], None]:
    folder, timeout_s = planned.folder, config.timeout_s
    if component is Component.S3:
        origins = labelstudio.origins(assigned)
        return lambda: s3.start(
            folder, config.s3, assigned, origins=origins, timeout_s=timeout_s, on_progress=on_progress
        )
    if component is Component.LABELSTUDIO:
        return lambda: labelstudio.start(
            folder, config.labelstudio, assigned, timeout_s=timeout_s, on_progress=on_progress
        )
    return lambda: ray_head.start(
        folder,
        config.ray,
        assigned,
        job_environment=variables_of(planned),
        timeout_s=timeout_s,
        on_progress=on_progress,
    )


def _together(starters: Sequence[Callable[[], None]]) -> None:
    """Run all starters at once and to their end, then raise the first error."""
    with ThreadPoolExecutor(max_workers=max(len(starters), 1), thread_name_prefix="stack") as pool:
        futures = [pool.submit(starter) for starter in starters]
    for future in futures:
        future.result()


def _assign_ports(config: StackConfig, folder: Path) -> dict[str, int]:
    wanted = {
        "s3": config.s3.port,
        "labelstudio": config.labelstudio.port,
        "ray": config.ray.port,
        "ray-dashboard": config.ray.dashboard_port,
    }
    earlier = ports.recorded(folder)
    for component in Component:
        if processes.is_alive(processes.read(folder, component)):
            for name in _PORT_NAMES[component]:
                if wanted.get(name) not in (None, earlier.get(name)):
                    raise ConfigError(
                        f"{component} already runs on port {earlier.get(name)}, not {wanted[name]}; "
                        f"run sonoloop down --folder {folder} first"
                    )
    # All names, so that S3 knows Label Studio's origin even where that starts later.
    return ports.assign(folder, tuple(name for names in _PORT_NAMES.values() for name in names), wanted)


def start(config: StackConfig, on_progress: OnProgress = _quiet) -> StackInfo:
    """Bring the stack up, or what of it does not run; the services start in parallel.

    Only at the very first start Ray waits for Label Studio: jobs inherit the head's environment, and the
    token in it is made by Label Studio's first boot.

    Args:
        config: What to start, and where.
        on_progress: Gets lines to show; from several threads, one at a time each.

    Returns:
        The addresses; `environment.environment` gives the secrets.

    Raises:
        ConfigError: a program is missing, a port is in use, a state file is damaged.
        ServiceError: a service does not start; the others are left running, and a second call goes on.
        StorageError: S3 refuses a bucket.
    """
    folder = private_folder(config.folder)
    begin = time.monotonic()
    with locked(folder, timeout_s=config.timeout_s, on_progress=on_progress):
        assigned = _assign_ports(config, folder)
        planned = _plan(config, folder, assigned)
        # All keys but Label Studio's token are made here, before several threads could make them twice.
        known = variables_of(planned)
        first_boot = planned.labelstudio_url is not None and "LABEL_STUDIO_API_KEY" not in known
        starters = {c: _starter(c, config, planned, assigned, on_progress) for c in config.components}
        late = [starters.pop(Component.RAY)] if first_boot and Component.RAY in starters else []
        _together(list(starters.values()))
        _together(late)
        publish(planned)
    logger.info("stack of %s is up after %.1f s", folder, time.monotonic() - begin)
    return planned


def stop(folder: Path, on_progress: OnProgress = _quiet, *, timeout_s: float = 60) -> tuple[Component, ...]:
    """End the stack's processes by process id; keys, ports and data stay.

    Returns:
        The components that ran.

    Raises:
        ConfigError: there is no such folder.
        ServiceError: a process does not end, or another command holds the folder.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise ConfigError(f"there is no stack folder {folder}; name the one that sonoloop up used")
    stopped = []
    with locked(folder, timeout_s=timeout_s, on_progress=on_progress):
        for component in reversed(Component):  # Ray first: its jobs use the others
            # 5 s: SeaweedFS drains idle client connections for longer than that, and survives KILL.
            if processes.stop(folder, component, grace_s=5):
                on_progress(f"{component}: stopped")
                stopped.append(component)
        processes.stop(folder, postgres.NAME)  # Label Studio's, hence after it
        withdraw(folder)
    return tuple(stopped)
