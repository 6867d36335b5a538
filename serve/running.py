"""Ray and Serve for the length of one ``sonoloop serve``.

Importing this module loads Ray, which reads once how to authenticate (2.60): `choose_authentication` comes
first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve

from sonoloop.platform import logs
from sonoloop.platform.cluster import joins_cluster
from sonoloop.platform.errors import ServiceError
from sonoloop.serve import wire
from sonoloop.serve.config import ServeConfig, ServeSettings
from sonoloop.serve.gateway import APPLICATION, door
from sonoloop.serve.versions import start_version

logger = logging.getLogger(__name__)


@contextmanager
def ray_session(settings: ServeSettings) -> Iterator[None]:
    """Ray for the length of the service: the one already connected, the configured one, or an own one.

    Raises:
        ServiceError: the configured Ray does not answer.
    """
    if ray.is_initialized():
        yield
        return
    joins = joins_cluster()
    try:
        ray.init(
            address=None if joins else "local",
            num_cpus=None if joins else settings.ray.num_cpus,
            include_dashboard=None if joins else False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            **logs.ray_options(),
        )
    except (ConnectionError, RuntimeError, ValueError) as err:
        raise ServiceError(f"Ray does not start or answer ({type(err).__name__}): {err}") from err
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def served(settings: ServeSettings, version: str, key: str) -> Iterator[str]:
    """The application on Serve, ready to be asked; gives its address. Serve ends with the block.

    Raises:
        ServiceError: Serve runs in this Ray already, or the application does not come up.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().proxies:
        raise ServiceError(
            "Ray Serve runs in this Ray already, perhaps under another `sonoloop serve`; end that first "
            "(or, if nothing owns it any more: serve shutdown)"
        )
    config = settings.serve
    try:
        with _clear_failures():
            serve.start(
                proxy_location="HeadOnly",
                http_options=wire.http_options(config),
                controller_options=wire.controller_options(config),
                logging_config={"log_level": "INFO", "encoding": "JSON" if logs.is_json() else "TEXT"},
            )
            start_version(settings, version, num_replicas=config.min_replicas)
            serve.run(door(settings, key), name=APPLICATION, route_prefix="/")
        yield address(config)
    finally:
        serve.shutdown()


def address(config: ServeConfig) -> str:
    """The base URL under which this machine reaches the service."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    host = f"[{config.host}]" if ":" in config.host else config.host
    scheme = "https" if config.tls_certificate else "http"
    return f"{scheme}://{everywhere.get(config.host, host)}:{config.port}"


@contextmanager
def _clear_failures() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, TimeoutError, ray.exceptions.RayError) as err:
        failed = serve.status().applications.get(APPLICATION)
        told = [line for line in (failed.message if failed else str(err)).splitlines() if line.strip()]
        logger.debug("the application did not come up", exc_info=err)
        reason = told[-1].strip() if told else type(err).__name__
        raise ServiceError(f"the door did not open: {reason}") from err
