"""The door on Ray Serve: one `Gateway`, which sends each request to the version that serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from ray import serve

from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import store_of
from sonoloop.serve import replica_logs, versions
from sonoloop.serve.app import Api
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.drafts.case import CaseEvent, DraftCase
from sonoloop.serve.drafts.routes import Drafts
from sonoloop.serve.keys import key_digest
from sonoloop.serve.metrics import CountRequests, DoorMetrics
from sonoloop.serve.page.routes import page_router
from sonoloop.serve.readiness import Readiness
from sonoloop.serve.reading import read_body
from sonoloop.serve.served import Served

if TYPE_CHECKING:
    from sonoloop.serve.labelstudio.backend import Backend

logger = logging.getLogger(__name__)

APPLICATION = "sonoloop"
MORE_DOOR_REQUESTS = 256
"""Requests inside the door beyond those that the line lets in: they are refused, or ask for health."""


class Gateway:
    """The Serve deployment around `Api`.

    It begins with the newest version that is up; whoever rolls tells it of changes.

    Args:
        settings: Limits, and where everything is.
        digest: `key_digest` of the API key; the key itself never enters the cluster's state.
    """

    def __init__(self, settings: ServeSettings, digest: bytes) -> None:
        replica_logs.set_up(settings.log)
        self._settings = settings
        up = [version for version, status in versions.applications().items() if versions.is_up(status)]
        self._metrics = DoorMetrics(up[-1])
        self._serving = self._served(up[-1])
        self._known = {self._serving.version: self._serving}
        self._readiness = Readiness(up[-1], may_sleep=settings.serve.min_replicas == 0)
        rooms: list[Callable[[Any], APIRouter]] = [Drafts(settings, self._write).router, page_router]
        if settings.serve.drafts is not None:
            rooms.append(self._backend(settings).router)
        workspace = store_of(settings.workspace, settings.s3)
        self._api = Api(settings.serve, settings.model.name, lambda: self._serving, digest, rooms, workspace)

    def _backend(self, settings: ServeSettings) -> Backend:
        from sonoloop.serve.labelstudio.backend import Backend  # needs the extra labelstudio

        limit = settings.serve.max_body_bytes
        assert settings.serve.drafts is not None
        return Backend(
            settings.serve.drafts,
            settings,
            lambda: self._serving.version,
            self._draft,
            lambda request: read_body(request, limit),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the application once the replica is built."""
        app = self._api.app()
        app.add_api_route("/readyz", self.readyz, methods=["GET"], include_in_schema=False)
        app.add_middleware(CountRequests, door=self._metrics)  # the outermost: it sees all refusals
        return app

    async def switch(self, version: str, not_served: str | None = None) -> dict[str, int]:
        """Send new requests to a version that is up. Saying it twice does no harm.

        Args:
            version: ``<name>/<version>``.
            not_served: A champion that could not be loaded, if any; `readyz` tells of it.

        Returns:
            Requests inside, of each version that has some.
        """
        if version not in self._known:
            self._known[version] = await asyncio.to_thread(self._served, version)
        if version != self._serving.version:
            self._metrics.changed(version)
        self._serving = self._known[version]
        self._readiness.serves(version, not_served)
        busy = {served.version: served.num_inside for served in self._known.values() if served.num_inside}
        self._known = {v: served for v, served in self._known.items() if v in busy or v == version}
        return busy

    async def readyz(self) -> Response:
        """Whether a model answers, and which; needs no key, asks no model and wakes none."""
        return await self._readiness.answer()

    def _write(self, case: DraftCase) -> AsyncGenerator[CaseEvent, None]:
        return self._serving.write(case)

    async def _draft(self, cases: list[DraftCase]) -> list[DraftRecord]:
        drafts = await self._serving.draft(cases)
        self._metrics.drafted(drafts, "labelstudio")
        return drafts

    def _served(self, version: str) -> Served:
        handle = serve.get_app_handle(versions.application_name(version))
        return Served(version, handle, self._metrics)


def door(settings: ServeSettings, key: str) -> Any:
    """The door's Serve application; a version must be up before it.

    Args:
        settings: Limits, and where everything is.
        key: The API key.
    """
    deployment = serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        max_ongoing_requests=settings.serve.capacity + settings.serve.max_queued + MORE_DOOR_REQUESTS,
        ray_actor_options={"num_cpus": 0},
    )
    return deployment.bind(settings, key_digest(key))
