"""The Serve application: one `Gateway`, which holds the door, before the replicas of the `Champion`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import store_of
from sonoloop.serve.app import RETRY_AFTER_S, Api, key_digest, read_body
from sonoloop.serve.champion import Champion, Event, Question
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.labelstudio.cases import DraftCase
from sonoloop.serve.protocol import ApiError

if TYPE_CHECKING:
    from sonoloop.serve.labelstudio.backend import Backend

logger = logging.getLogger(__name__)

MAX_DOOR_REQUESTS = 256
"""Requests inside the door at once: far above the queue's length, so that health is always let in."""


class Gateway:
    """The Serve deployment around `Api`.

    Args:
        settings: Limits, and where everything is.
        version: The served version.
        digest: `key_digest` of the API key; the key itself never enters the cluster's state.
        champion: Handle of the replicas.
    """

    def __init__(self, settings: ServeSettings, version: str, digest: bytes, champion: Any) -> None:
        more = None if settings.serve.drafts is None else self._backend(settings, version).router
        self._api = Api(settings.serve, settings.model.name, version, digest, self._ask, more)
        self._champion = champion.options(stream=True)
        self._drafter = champion

    def _backend(self, settings: ServeSettings, version: str) -> Backend:
        from sonoloop.serve.labelstudio.backend import Backend  # needs the extra labelstudio

        limit = settings.serve.max_body_bytes
        assert settings.serve.drafts is not None
        return Backend(
            settings.serve.drafts, settings, version, self._draft, lambda request: read_body(request, limit)
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the application once the replica is built."""
        return self._api.app()

    async def _ask(self, question: Question) -> AsyncGenerator[Event, None]:
        response = self._champion.answer.remote(question)
        try:
            async for event in response:
                yield event
        except (RayError, RayServeException) as err:
            raise _lost(err) from None
        finally:
            response.cancel()  # nothing to cancel after the last event

    async def _draft(self, cases: list[DraftCase]) -> list[DraftRecord]:
        try:
            drafts: list[DraftRecord] = await self._drafter.draft.remote(cases)
        except (RayError, RayServeException) as err:
            raise _lost(err) from None
        return drafts


def _lost(err: Exception) -> ApiError:
    logger.warning("a replica was lost (%s)", type(err).__name__)
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the model's replica was lost; ask again",
        code="replica_lost",
        retry_after_s=RETRY_AFTER_S,
    )


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
    return door.bind(settings, version, key_digest(key), champion)
