"""The service for a Serve that is told by a file what to run, as KubeRay does it; `sonoloop serve` elsewhere.

Two applications stand in that file. `keeper` brings the champion up and follows it as `sonoloop serve` would;
`door` takes requests once a version is there. Both are given ``{"config": "s3://bucket/sonoloop.toml"}``.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from sonoloop.platform import registry
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.settings import read_settings
from sonoloop.platform.workspace import store_of
from sonoloop.serve import gateway, replica_logs, versions
from sonoloop.serve.config import ServeSettings, required_key
from sonoloop.serve.rolling import Rolling

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class Arguments(BaseModel):
    """What the file says of an application."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    config: str = Field(description="settings file: a path or an s3:// URI")


class Keeper:
    """Keeps the champion of the registry served, for as long as it lives.

    One that comes after a keeper that was lost begins with what serves, and follows the champion from there.

    Args:
        settings: Of the service.

    Raises:
        ConfigError: there is no champion.
        ServiceError: it does not load, and nothing serves.
    """

    def __init__(self, settings: ServeSettings) -> None:
        replica_logs.set_up(settings.log)
        workspace = store_of(settings.workspace, settings.s3)
        version = registry.resolve(workspace, settings.model.name, "champion")
        up = [known for known, status in versions.applications().items() if versions.is_up(status)]
        if not up:
            versions.start_version(settings, version, num_replicas=settings.serve.min_replicas)
        elif version not in up:
            version = up[-1]
        self._following = threading.Thread(target=_follow, args=(settings, version), daemon=True)
        self._following.start()

    def check_health(self) -> None:
        """Serve asks every few seconds, and replaces a keeper that keeps raising.

        Raises:
            ServiceError: nobody follows the champion any more.
        """
        if not self._following.is_alive():
            raise ServiceError("nobody follows the champion any more; the log of this replica says why")


def keeper(arguments: dict[str, str]) -> Any:
    """The application that keeps the champion served; `Arguments`, as the file has them.

    Raises:
        ConfigError: the settings cannot be used.
    """
    return serve.deployment(Keeper, ray_actor_options={"num_cpus": 0}).bind(_settings(arguments))


def door(arguments: dict[str, str]) -> Any:
    """The application that takes requests; waits until a version is up. `Arguments`, as the file has them.

    Raises:
        ConfigError: the settings cannot be used, or no API key is in the environment.
        ServiceError: no version came up in time.
    """
    settings = _settings(arguments)
    key = required_key()
    deadline = time.monotonic() + settings.serve.start_timeout_s
    while not _is_up(versions.applications().values()):
        if time.monotonic() > deadline:
            raise ServiceError("no model came up; see what the application of the keeper says")
        time.sleep(LOOK_EVERY_S)
    return gateway.door(settings, key)


def _settings(arguments: dict[str, str]) -> ServeSettings:
    """Serve gives the file's arguments as they are: it would look for their type in an annotation (2.60)."""
    return read_settings(ServeSettings, Arguments.model_validate(arguments).config)


def _is_up(found: Any) -> bool:
    return any(status.status is ApplicationStatus.RUNNING for status in found)


def _is_door_open() -> bool:
    """Whether the door is up; not where Serve does not tell."""
    try:
        door = serve.status().applications.get(gateway.APPLICATION)
    except (RayError, RayServeException, TimeoutError) as err:
        logger.warning("Serve does not tell how the door is (%s)", type(err).__name__)
        return False
    return door is not None and _is_up([door])


def _follow(settings: ServeSettings, version: str) -> None:
    """Follow the champion once the door is open."""
    while not _is_door_open():
        time.sleep(LOOK_EVERY_S)
    rolling = Rolling(settings, version)
    while True:
        time.sleep(settings.serve.poll_s)
        if changed := rolling.look():
            logger.info("%s answers now", changed)
