"""``/v1/drafts``: one study in; frames, report, entities and boxes out. Nothing is kept unless asked."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from sonoloop.model.calibration import read_calibrator
from sonoloop.platform.errors import Reason, RejectedError, StorageError
from sonoloop.platform.export.config import ExportFormat
from sonoloop.platform.export.results import result_of
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import store_of
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.drafts.answers import (
    FRAMES_PATH,
    DraftAnswer,
    FramesAnswer,
    StudyAnswer,
    draft_answer,
    frames_answer,
)
from sonoloop.serve.drafts.case import CaseEvent, DraftCase, DraftedCase
from sonoloop.serve.drafts.keeping import RUN_ID, keep
from sonoloop.serve.drafts.messages import StudyRead
from sonoloop.serve.drafts.readers import Readers, StudyProcess
from sonoloop.serve.drafts.receiving import DESCRIBED, MEDIA_TYPES, Wishes, received_files
from sonoloop.serve.keyring import Bill
from sonoloop.serve.openapi import KEYED, errors
from sonoloop.serve.protocol import ApiError, bad_request
from sonoloop.serve.streams import begun, in_time

logger = logging.getLogger(__name__)

Write: TypeAlias = Callable[[DraftCase], AsyncGenerator[CaseEvent, None]]
"""Has the model write; raises `ApiError` where it was lost."""

_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_ACCEPTABLE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_IMAGE_NAME = re.compile(r"[0-9a-f]{64}\.png")


@dataclass(frozen=True)
class _Done:
    """A study with its draft, as long as its reader lives."""

    study: StudyRead
    draft: DraftRecord
    answer: DraftAnswer
    process: StudyProcess


_Event: TypeAlias = FramesAnswer | str | _Done
_FORMATS = {"fhir": ExportFormat.FHIR, "sr": ExportFormat.SR}


class Drafts:
    """The routes.

    Args:
        settings: Limits, and where the workspace is.
        write: Has the model write.
    """

    def __init__(self, settings: ServeSettings, write: Write) -> None:
        self._settings, self._write = settings, write
        self._workspace = store_of(settings.workspace, settings.s3)
        self._readers = Readers(settings)

    def router(self, key: Any) -> APIRouter:
        """The routes, behind the dependency that asks for a key."""
        router = APIRouter(tags=["drafts"], dependencies=[key])
        router.add_api_route(
            "/v1/drafts",
            self.draft,
            methods=["POST"],
            operation_id="draftStudy",
            response_model=StudyAnswer,
            openapi_extra=DESCRIBED,
            responses=errors(*_REFUSALS, *KEYED),
        )
        router.add_api_route(
            f"{FRAMES_PATH}/{{name}}",
            self.frame,
            methods=["GET"],
            operation_id="retrieveFrame",
            response_class=Response,
            responses={200: {"content": {"image/png": {}}}, **errors(HTTPStatus.NOT_FOUND, *KEYED)},
        )
        return router

    async def frame(self, name: str) -> Response:
        """A frame that is kept."""
        if _IMAGE_NAME.fullmatch(name) is None:
            raise _not_there()
        try:
            data = await asyncio.to_thread(self._workspace.read_bytes, "images", name[:2], name)
        except FileNotFoundError:
            raise _not_there() from None
        except StorageError:
            raise _no_workspace() from None
        return Response(data, media_type="image/png")

    async def draft(self, request: Request) -> Response:
        """Read and draft a study."""
        request.app.state.line.check()
        wishes = Wishes.of(request)
        if wishes.keep and not self._readers.has_key:
            raise bad_request(
                "nothing can be kept here: this server has no SONOLOOP_PSEUDONYM_KEY to name cases with",
                code="cannot_keep",
                param="keep",
            )
        events = in_time(self._events(request, wishes), self._settings.serve.studies.timeout_s)
        if wishes.stream:
            told = _streamed(await begun(events))  # what cannot be shown is refused with its status
            return StreamingResponse(
                told, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
            )
        async with aclosing(events):
            return await self._whole(events, wishes)

    async def _whole(self, events: AsyncGenerator[_Event, None], wishes: Wishes) -> Response:
        frames: FramesAnswer | None = None
        async for event in events:
            if isinstance(event, FramesAnswer):
                frames = event
            elif isinstance(event, _Done):
                assert frames is not None
                if wishes.format == "json":
                    body = StudyAnswer(**dict(frames), **dict(event.answer)).model_dump_json().encode()
                else:
                    body = await self._report(event, _FORMATS[wishes.format])
                return Response(body, media_type=MEDIA_TYPES[wishes.format])
        raise AssertionError("a study ends with its draft or an error")

    async def _report(self, done: _Done, kind: ExportFormat) -> bytes:
        now = {RUN_ID: done.study.case.indexed_at}
        result = result_of(done.study.case, None, done.draft, drafted_at=now, reviewed_only=False)
        try:
            return await asyncio.to_thread(done.process.report, result, kind)
        except RejectedError as err:
            raise _refused(err.reason, err.detail) from None

    async def _events(self, request: Request, wishes: Wishes) -> AsyncGenerator[_Event, None]:
        begin, door = time.monotonic(), request.app.state
        async with AsyncExitStack() as inside:
            await inside.enter_async_context(self._readers.place())
            files = await received_files(request, self._settings.serve)
            place = inside.enter_context(ExitStack())
            place.enter_context(door.line.place())  # from here on it waits for the model, as questions do
            try:
                process, study, images = await inside.enter_async_context(self._readers.studied(files))
                del files
                _refuse_empty(study)
                yield frames_answer(study, images, "inline" if wishes.images == "inline" else "none")
                bill = inside.enter_context(door.keyring.charged(request.state.key))
                written = self._written(study, images, wishes, process, bill)
                await inside.enter_async_context(aclosing(written))
                async for event in written:
                    if isinstance(event, _Done):
                        place.close()
                    yield event
            except RejectedError as err:
                raise _refused(err.reason, err.detail) from None
        logger.info("a study was drafted: %d frames, %.1f s", len(images), time.monotonic() - begin)

    async def _written(
        self,
        study: StudyRead,
        images: list[bytes],
        wishes: Wishes,
        process: StudyProcess,
        bill: Bill,
    ) -> AsyncGenerator[_Event, None]:
        """Pieces of the report, the frames once more where they have got addresses, then the draft.

        Raises:
            RejectedError: the model wrote none.
        """
        case = DraftCase(study.case.case_id, wishes.organ or study.case.organ_hint, tuple(images))
        async with aclosing(self._write(case)) as events:
            async for event in events:
                if isinstance(event, str):
                    bill.tokens += 1  # or more; the record tells it exactly
                    yield event
                    continue
                draft = event.record
                bill.tokens = draft.num_tokens or bill.tokens
                if draft.reason is not None:
                    raise RejectedError(Reason(draft.reason), draft.detail or "")
                answer = await self._answer(study, images, event, wishes)
                if wishes.images == "links" and answer.kept is not None and answer.kept.draft != "not kept":
                    yield frames_answer(study, images, "links")
                yield _Done(study, draft, answer, process)

    async def _answer(
        self, study: StudyRead, images: list[bytes], drafted: DraftedCase, wishes: Wishes
    ) -> DraftAnswer:
        def work() -> DraftAnswer:
            draft = drafted.record
            kept = keep(self._workspace, study, images, draft) if wishes.keep else None
            calibrator = read_calibrator(self._workspace, draft.model_version, draft.prompt_version)
            return draft_answer(drafted, calibrator, self._settings.serve.engine.language, kept)

        try:
            return await asyncio.to_thread(work)
        except StorageError:
            raise _no_workspace() from None


def _refuse_empty(study: StudyRead) -> None:
    """Raise the reason why no frame of a study may be shown."""
    if not study.case.images:
        refusals = (RejectedError(Reason(f.reason), f.detail or "") for f in study.frames if f.reason)
        raise next(refusals, RejectedError(Reason.NO_PIXELS, "no frame could be read"))


async def _streamed(events: AsyncGenerator[_Event, None]) -> AsyncIterator[str]:
    """Server-sent events. An error in the middle is an event, since the status is sent already."""
    async with aclosing(events):
        try:
            async for event in events:
                for name, body in _named(event):
                    yield f"event: {name}\ndata: {body}\n\n"
        except ApiError as err:
            yield f"event: error\ndata: {err.body().model_dump_json()}\n\n"


class _Piece(BaseModel):
    text: str


def _named(event: _Event) -> list[tuple[str, str]]:
    if isinstance(event, FramesAnswer):
        return [("frames", event.model_dump_json())]
    if isinstance(event, str):
        return [("report", _Piece(text=event).model_dump_json())]
    entities = event.answer.model_dump_json(
        include={"organ", "entities", "boxes", "confidence", "calibrated"}
    )
    return [("entities", entities), ("done", event.answer.model_dump_json())]


def _refused(reason: Reason, detail: str) -> ApiError:
    if reason is Reason.MODEL_FAILED:
        return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed on this study", code=reason)
    if reason is Reason.NOT_DICOM:
        return ApiError(HTTPStatus.NOT_ACCEPTABLE, detail, code=reason)
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, code=reason)


def _not_there() -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, "no such frame is kept here", code="no_such_frame")


def _no_workspace() -> ApiError:
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the workspace does not answer; ask again later",
        code="workspace_unavailable",
    )
