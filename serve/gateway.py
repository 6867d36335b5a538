"""The Serve application: one `Gateway`, which holds the door, before the replicas of the `Champion`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from sonoloop.platform.workspace import store_of
from sonoloop.serve.app import RETRY_AFTER_S, Api, key_digest
from sonoloop.serve.champion import Champion, Event, Question
from sonoloop.serve.config import ServeConfig, ServeSettings
from sonoloop.serve.protocol import ApiError

logger = logging.getLogger(__name__)

MAX_DOOR_REQUESTS = 256
"""Requests inside the door at once: far above the queue's length, so that health is always let in."""


class Gateway:
    """The Serve deployment around `Api`.

    Args:
        config: Limits.
        name: The model's name.
        version: The served version.
        digest: `key_digest` of the API key; the key itself never enters the cluster's state.
        champion: Handle of the replicas.
    """

    def __init__(self, config: ServeConfig, name: str, version: str, digest: bytes, champion: Any) -> None:
        self._api = Api(config, name, version, digest, self._ask)
        self._champion = champion.options(stream=True)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the application once the replica is built."""
        return self._api.app()

    async def _ask(self, question: Question) -> AsyncGenerator[Event, None]:
        response = self._champion.answer.remote(question)
        try:
            async for event in response:
                yield event
        except (RayError, RayServeException) as err:
            logger.warning("a replica was lost (%s)", type(err).__name__)
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the model's replica was lost; ask again",
                code="replica_lost",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        finally:
            response.cancel()  # nothing to cancel after the last event


def application(settings: ServeSettings, version: str, key: str) -> Any:
    """The Serve application: one door, ``num_replicas`` champions behind it.

    Args:
        settings: Where the model lies and how it is served.
        version: The model version, resolved.
        key: The API key.
    """
    config = settings.serve
    replicas = serve.deployment(
        Champion,
        num_replicas=config.num_replicas,
        max_ongoing_requests=config.max_ongoing,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    )
    door = serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        max_ongoing_requests=MAX_DOOR_REQUESTS,
        ray_actor_options={"num_cpus": 0},
    )
    champion = replicas.bind(store_of(settings.workspace, settings.s3), version, config.engine)
    return door.bind(config, settings.model.name, version, key_digest(key), champion)
