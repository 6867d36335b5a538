"""The HTTP door: who may ask, how much, and in which form. No Ray in here.

The door decodes and checks everything before the model is asked, so health and refusals never wait for an
answer that is being written.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from sonoloop.model.chat import ChatPiece, ChatResult
from sonoloop.model.openai.answer import ChatCompletion
from sonoloop.model.openai.conversation import conversation, options
from sonoloop.model.openai.images import Uploaded, decode_images
from sonoloop.model.openai.request import ChatRequest
from sonoloop.platform.workspace import Store
from sonoloop.serve.answers import Answer, new_identity
from sonoloop.serve.champion import Event, Question, Refusal
from sonoloop.serve.config import ServeConfig
from sonoloop.serve.files import Files
from sonoloop.serve.guard import Guard
from sonoloop.serve.keyring import Keyring
from sonoloop.serve.keys import KeyRecord, Scope, require
from sonoloop.serve.line import Line
from sonoloop.serve.openapi import KEYED, described, errors, json_body
from sonoloop.serve.protocol import ApiError, Health, ModelCard, ModelList, bad_request, refused
from sonoloop.serve.reading import json_answer, read_body
from sonoloop.serve.refusals import refuse_in_one_form
from sonoloop.serve.streams import begun, in_time, merged
from sonoloop.serve.uploads import Uploads

logger = logging.getLogger(__name__)


class Model(Protocol):
    """A model version that can be asked."""

    @property
    def version(self) -> str:
        """``<name>/<version>``."""
        ...

    def ask(self, question: Question) -> AsyncGenerator[Event, None]:
        """Answers a question; closing the generator stops the model."""
        ...


class Api:
    """The routes of one model line.

    Args:
        config: Limits.
        name: The model's name, which stands for the served version.
        serving: The version that answers now. A request stays with the one that it began with.
        digest: `key_digest` of the environment's key.
        more: Each makes further routes, of the dependency that asks for a key with the scope of drafts.
        workspace: Where further keys are, if anywhere.
    """

    def __init__(
        self,
        config: ServeConfig,
        name: str,
        serving: Callable[[], Model],
        digest: bytes,
        more: Sequence[Callable[[Any], APIRouter]] = (),
        workspace: Store | None = None,
    ) -> None:
        self._config, self._name, self._serving = config, name, serving
        self._keyring = Keyring(digest, workspace)
        self._more = more
        self._uploads = Uploads(config.uploads)
        self._started = int(time.time())
        self._line = Line(config.capacity, config.max_queued)
        self._max_choices = min(config.max_choices, config.capacity + config.max_queued)

    def app(self) -> FastAPI:
        """The ASGI application."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        app.state.keyring, app.state.line = self._keyring, self._line
        app.add_middleware(Guard, config=self._config)
        app.include_router(self._open_routes(app))
        app.include_router(self._routes(Depends(require(Scope.CHAT))))
        app.include_router(Files(self._config, self._uploads).router(Depends(require(Scope.CHAT))))
        for router in self._more:
            app.include_router(router(Depends(require(Scope.DRAFTS))))
        refuse_in_one_form(app)
        return app

    def _open_routes(self, app: FastAPI) -> APIRouter:
        """Routes without a key: they tell nothing of what is here."""
        router = APIRouter()
        open_to_all: dict[str, Any] = {"security": []}
        most = {"n": self._max_choices}
        most |= dict.fromkeys(("max_tokens", "max_completion_tokens"), self._config.max_tokens)

        @router.get("/openapi.json", operation_id="describe", openapi_extra=open_to_all)
        async def describe() -> dict[str, Any]:
            """This description."""
            app.openapi_schema = app.openapi_schema or described(app, most)
            return app.openapi_schema

        router.add_api_route(
            "/healthz",
            self.healthz,
            methods=["GET"],
            operation_id="health",
            response_model=Health,
            openapi_extra=open_to_all,
        )
        return router

    def _routes(self, key: Any) -> APIRouter:
        router = APIRouter(prefix="/v1", dependencies=[key])
        router.add_api_route(
            "/models",
            self.models,
            methods=["GET"],
            operation_id="listModels",
            response_model=ModelList,
            responses=errors(*KEYED),
        )
        router.add_api_route(
            "/models/{model:path}",
            self.model,
            methods=["GET"],
            operation_id="retrieveModel",
            response_model=ModelCard,
            responses=errors(HTTPStatus.NOT_FOUND, *KEYED),
        )
        streamed: dict[str, Any] = {"text/event-stream": {}}  # chunks, then [DONE]; no schema holds for both
        refused = errors(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, *KEYED, HTTPStatus.GATEWAY_TIMEOUT)
        router.add_api_route(
            "/chat/completions",
            self.complete,
            methods=["POST"],
            operation_id="createChatCompletion",
            response_model=ChatCompletion,
            openapi_extra=json_body("ChatRequest"),
            responses={200: {"content": streamed}, **refused},
        )
        return router

    async def healthz(self) -> Response:
        """Whether the door is open; needs no key and asks no model."""
        return json_answer(Health())

    async def models(self) -> Response:
        """The one version that answers."""
        return json_answer(ModelList(data=[self._card()]))

    async def model(self, model: str) -> Response:
        """The version that answers, by its own name or by the model's."""
        self._asked(model)
        return json_answer(self._card())

    async def complete(self, request: Request) -> Response:
        """Answer a conversation, whole or as server-sent events."""
        self._line.check()
        body = await read_body(request, self._config.max_body_bytes)
        chat = await asyncio.to_thread(ChatRequest.parse, body)
        model = self._asked(chat.model)
        if chat.n > self._max_choices:
            raise bad_request(f"expected n up to {self._max_choices}, found {chat.n}", param="n")
        answer = Answer(new_identity(model.version), chat.n, chat.logprobs)
        events = in_time(self._events(model, chat, request.state.key), self._config.timeout_s)
        if not chat.stream:
            async with aclosing(events):
                return json_answer(await answer.whole(events))
        pieces = await begun(events)  # a refusal comes before the first piece and still gets its status
        return StreamingResponse(
            answer.streamed(pieces, include_usage=chat.stream_options.include_usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache"},
        )

    def _card(self) -> ModelCard:
        return ModelCard(id=self._serving().version, created=self._started)

    def _asked(self, wanted: str) -> Model:
        model = self._serving()
        if wanted not in (model.version, self._name):
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                f"no such model here; this server answers as {model.version}",
                code="model_not_found",
                param="model",
            )
        return model

    async def _events(
        self, model: Model, chat: ChatRequest, key: KeyRecord
    ) -> AsyncGenerator[tuple[int, ChatPiece | ChatResult], None]:
        begin, tokens = time.monotonic(), [0] * chat.n
        with ExitStack() as inside:
            bill = inside.enter_context(self._keyring.charged(key))
            for _ in range(chat.n):
                inside.enter_context(self._line.place())
            uploaded = partial(self._uploads.picture, key.name)
            questions = await asyncio.to_thread(_questions, chat, self._config, uploaded)
            async with aclosing(merged([model.ask(question) for question in questions])) as events:
                async for index, event in events:
                    if isinstance(event, Refusal):
                        raise refused(event.reason, event.detail, param=event.param)
                    tokens[index] += 1  # a piece is a token or more; the result tells it exactly
                    if isinstance(event, ChatResult):
                        used, new = event.prompt_tokens, event.completion_tokens
                        tokens[index] = new if index else used + new  # one prompt for all answers
                        logger.info("answered: %d + %d tokens, %.1f s", used, new, time.monotonic() - begin)
                    bill.tokens = sum(tokens)
                    yield index, event


def _questions(chat: ChatRequest, config: ServeConfig, uploaded: Uploaded) -> list[Question]:
    ways = options(chat, max_tokens=config.max_tokens, seed=secrets.randbits(31))
    pictures = decode_images(
        chat.images, max_images=config.max_images, max_pixels=config.max_pixels, uploaded=uploaded
    )
    messages = conversation(chat, pictures)
    return [Question(messages, way) for way in ways]
