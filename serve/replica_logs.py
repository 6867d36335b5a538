"""Logs of Serve's replicas: as the settings ask, and each line with the request that it belongs to.

The driver tells its own workers (`sonoloop.platform.logs.ray_options`); where Serve is run by a file, or the
cluster was there before, nobody does.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from sonoloop.platform import logs
from sonoloop.platform.logs import LogConfig

E = TypeVar("E")
R = TypeVar("R")


def set_up(config: LogConfig) -> None:
    """Log as the environment or the settings ask, unless the driver has seen to it."""
    if not logs.is_json():
        logs.set_up()
        logs.follow(config)


def request_id() -> str:
    """The request that a call to this replica is part of, as its answer's ``x-request-id`` has it."""
    from ray.serve import context  # here: the door's routes do without Ray

    # as Ray's manual has it; there is no other way
    return str(context._get_serve_request_context().request_id)


def naming(request: str, events: Generator[E, None, R]) -> Generator[E, None, R]:
    """The same events; what is logged on the way to them names a request. For one thread."""
    with logs.in_request(request):
        return (yield from events)
