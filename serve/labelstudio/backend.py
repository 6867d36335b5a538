"""The routes of the ML backend. Only ``/predict`` waits for the model.

An event of the project is a hint that reviews may have come: it has no key, so its body is not read, and what
it leads to is one empty object, written every few seconds at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sonoloop.model.calibration import case_confidence
from sonoloop.model.prompts import draft_recipe
from sonoloop.platform.errors import StorageError
from sonoloop.platform.labelstudio.config import api_key, configured_page
from sonoloop.platform.labelstudio.predictions import Prediction, prediction_of, version_name
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.tasks import control_cases
from sonoloop.platform.watch_hint import write_hint
from sonoloop.platform.workspace import store_of
from sonoloop.serve.config import DraftsConfig, ServeSettings
from sonoloop.serve.drafts.calibrators import Calibrators
from sonoloop.serve.drafts.case import DraftCase
from sonoloop.serve.keyring import Keyring
from sonoloop.serve.labelstudio.cases import TaskRefusedError, case_of
from sonoloop.serve.labelstudio.delivery import deliver
from sonoloop.serve.labelstudio.desk import Desk, Hands
from sonoloop.serve.labelstudio.protocol import PredictAnswer, PredictRequest, SentTask, TaskStatus
from sonoloop.serve.protocol import ApiError

logger = logging.getLogger(__name__)

HINT_EVERY_S = 10.0
CONTROLS_EVERY_S = 30.0
"""How old the list of cases that are read without a draft may be."""


class Backend:
    """The served model line as Label Studio's ML backend.

    Args:
        config: Limits.
        settings: Where workspace and Label Studio are.
        serving: The version that drafts now, ``<name>/<version>``.
        draft: Drafts cases; raises `ApiError` where the model was lost.
        read_body: Reads a request's body, or raises `ApiError`.

    Raises:
        ConfigError: no key for Label Studio in the environment.
        StorageError: the workspace does not answer.
    """

    def __init__(
        self,
        config: DraftsConfig,
        settings: ServeSettings,
        serving: Callable[[], str],
        draft: Callable[[list[DraftCase]], Awaitable[list[DraftRecord]]],
        read_body: Callable[[Request], Awaitable[bytes]],
    ) -> None:
        api_key()
        self._workspace = store_of(settings.workspace, settings.s3)
        self._serving = serving
        self._prompt_version = draft_recipe(settings.serve.engine.language).id
        calibrators = Calibrators(self._workspace)
        calibrators.read(serving(), self._prompt_version)  # whether the workspace answers
        self._read_body = read_body
        self._hinted_at = -HINT_EVERY_S
        self._controls: frozenset[str] = frozenset()
        self._controls_read_at = -CONTROLS_EVERY_S
        hands = Hands(
            case_of=self._case_of,
            draft=draft,
            prediction_of=lambda draft: prediction_of(
                draft,
                score=case_confidence(draft, calibrators.of(draft.model_version, draft.prompt_version)),
                page=configured_page(settings.labelstudio),
            ),
            deliver=partial(deliver, settings.labelstudio),
        )
        self._desk = Desk(config, hands, num_replicas=settings.serve.max_replicas)

    @property
    def version_name(self) -> str:
        """What Label Studio calls the version that drafts now."""
        return version_name(self._serving(), self._prompt_version)

    def router(self, key: Any) -> APIRouter:
        """The routes.

        Args:
            key: The dependency that asks for the door's key; events come without one.
        """
        router = APIRouter(include_in_schema=False)  # Label Studio's protocol, described by Label Studio
        for path, method, answer in (
            ("/health", "GET", self.health),
            ("/setup", "POST", self.setup),
            ("/versions", "GET", self.versions),
            ("/predict", "POST", self.predict),
        ):
            router.add_api_route(path, answer, methods=[method], dependencies=[key], response_model=None)
        router.add_api_route("/webhook", self.webhook, methods=["POST"], response_model=None)
        return router

    async def health(self) -> Response:
        """That the door is open, how many tasks are on the desk, and what became of those before."""
        counts = {"on_desk": self._desk.num_tasks, **self._desk.counts}
        return JSONResponse({"status": "UP", "model_version": self.version_name, "tasks": counts})

    async def setup(self) -> Response:
        """The version that drafts. What was sent holds a token of Label Studio, and is not read."""
        return JSONResponse({"model_version": self.version_name})

    async def versions(self) -> Response:
        """The one version that drafts."""
        return JSONResponse({"versions": [self.version_name]})

    async def predict(self, request: Request) -> Response:
        """Drafts for the tasks of a call, as many as there is time for."""
        asked = await asyncio.to_thread(PredictRequest.parse, await self._read_body(request))
        await asyncio.to_thread(self._read_controls)
        keyring: Keyring = request.app.state.keyring
        sheets = await self._desk.predict(asked, partial(keyring.charge, request.state.key))
        blank: Prediction = {"model_version": self.version_name, "score": None, "result": []}
        without: Prediction | list[Prediction] = blank if asked.is_interactive else []
        answer = PredictAnswer(
            results=[sheet.prediction or without for sheet in sheets],
            statuses=[TaskStatus(task=sheet.task.id, status=sheet.status) for sheet in sheets],
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    def _read_controls(self) -> None:
        """A draft under a control would spoil what it measures; without the ledger nothing is drafted."""
        now = time.monotonic()
        if now - self._controls_read_at < CONTROLS_EVERY_S:
            return
        try:
            self._controls = control_cases(self._workspace)
        except StorageError as err:
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the workspace does not answer; ask again later",
                code="workspace_unavailable",
            ) from err
        self._controls_read_at = now

    def _case_of(self, task: SentTask) -> DraftCase:
        case = case_of(task.data, self._workspace.uri)
        if case.case_id in self._controls:
            raise TaskRefusedError("control")
        return case

    async def webhook(self) -> Response:
        """Note that something happened in the project."""
        now = time.monotonic()
        if now - self._hinted_at >= HINT_EVERY_S:
            self._hinted_at = now
            await asyncio.to_thread(self._hint)
        return JSONResponse({"status": "noted"})

    def _hint(self) -> None:
        try:
            write_hint(self._workspace)
        except StorageError as err:  # the watcher looks by itself, too
            logger.warning("a hint could not be written (%s)", type(err).__name__)
