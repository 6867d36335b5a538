"""The HTTP door: who may ask, how much, and in which form. No Ray in here.

The door decodes and checks everything before the model is asked, so health and refusals never wait for an
answer that is being written.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from starlette.exceptions import HTTPException

from sonoloop.model.chat import ChatMessage, ChatPart, ChatResult
from sonoloop.platform.errors import Reason
from sonoloop.serve.answers import Answer
from sonoloop.serve.champion import Event, Question, Refusal
from sonoloop.serve.config import ServeConfig
from sonoloop.serve.images import decode_images
from sonoloop.serve.protocol import (
    ApiError,
    ChatRequest,
    ImagePart,
    ModelCard,
    ModelList,
    RequestMessage,
    bad_request,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5

Ask: TypeAlias = Callable[[Question], AsyncGenerator[Event, None]]


def key_digest(key: str) -> bytes:
    """What the door keeps of the API key: enough to compare, too little to reveal it."""
    return hashlib.sha256(key.encode()).digest()


class Api:
    """The routes of one served model version.

    Args:
        config: Limits.
        name: The model's name, which stands for the served version.
        version: The served version, ``<name>/<version>``.
        digest: `key_digest` of the API key.
        ask: Answers a question; closing its generator stops the model.
        more: Makes further routes behind the same key, of the dependency that asks for it.
    """

    def __init__(
        self,
        config: ServeConfig,
        name: str,
        version: str,
        digest: bytes,
        ask: Ask,
        more: Callable[[Any], APIRouter] | None = None,
    ) -> None:
        self._config, self._name, self._version, self._digest = config, name, version, digest
        self._ask, self._more = ask, more
        self._started = int(time.time())
        self._num_inside = 0

    def app(self) -> FastAPI:
        """The ASGI application."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        key = [Depends(self._authorise)]
        app.add_api_route("/healthz", self.healthz, methods=["GET"], response_model=None)
        app.add_api_route("/v1/models", self.models, methods=["GET"], dependencies=key, response_model=None)
        app.add_api_route(
            "/v1/chat/completions", self.complete, methods=["POST"], dependencies=key, response_model=None
        )
        if self._more is not None:
            app.include_router(self._more(key[0]))
        app.add_exception_handler(ApiError, _refused)
        app.add_exception_handler(HTTPException, _no_route)
        app.add_exception_handler(Exception, _failed)
        return app

    async def healthz(self) -> Response:
        """Whether the door is open; needs no key and asks no model."""
        return JSONResponse({"status": "ok"})

    async def models(self) -> Response:
        """The one version that answers."""
        return _json(ModelList(data=[ModelCard(id=self._version, created=self._started)]))

    async def complete(self, request: Request) -> Response:
        """Answer a conversation, whole or as server-sent events."""
        body = await read_body(request, self._config.max_body_bytes)
        chat = await asyncio.to_thread(ChatRequest.parse, body)
        if chat.model not in (self._version, self._name):
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                f"no such model here; this server answers as {self._version}",
                code="model_not_found",
                param="model",
            )
        limit = chat.token_limit(self._config.max_tokens)
        answer = Answer(self._version)
        events = _in_time(self._events(chat, limit), self._config.timeout_s)
        if not chat.stream:
            async with aclosing(events):
                return _json(await answer.whole(events))
        first = await anext(events)  # a refusal comes before the first piece and still gets its status
        pieces = answer.streamed(_chained(first, events), include_usage=chat.stream_options.include_usage)
        return StreamingResponse(
            pieces, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )

    async def _events(self, chat: ChatRequest, limit: int) -> AsyncGenerator[str | ChatResult, None]:
        begin = time.monotonic()
        with self._place():
            question = await asyncio.to_thread(_question, chat, limit, self._config)
            async with aclosing(self._ask(question)) as events:
                async for event in events:
                    if isinstance(event, Refusal):
                        raise _as_error(event)
                    if isinstance(event, ChatResult):
                        used, new = event.prompt_tokens, event.completion_tokens
                        logger.info("answered: %d + %d tokens, %.1f s", used, new, time.monotonic() - begin)
                    yield event

    @contextmanager
    def _place(self) -> Iterator[None]:
        most = self._config.num_replicas * self._config.max_ongoing + self._config.max_queued
        if self._num_inside >= most:
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{most} requests are being answered or wait already; come back in {RETRY_AFTER_S} s",
                code="overloaded",
                retry_after_s=RETRY_AFTER_S,
            )
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1

    async def _authorise(self, request: Request) -> None:
        key = _given_key(request.headers.get("authorization", ""))
        if key is None or not hmac.compare_digest(key_digest(key), self._digest):
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                "expected the header Authorization: Bearer with this server's API key",
                code="invalid_api_key",
            )


def _given_key(header: str) -> str | None:
    """The key of a request: a bearer token, or the password of any user, as Label Studio sends it."""
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:
        return None


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body, unless it is too large; then reading stops at the limit.

    Raises:
        ApiError: 413.
    """
    length = request.headers.get("content-length", "")
    body = bytearray()
    too_large = length.isdecimal() and int(length) > max_bytes
    if not too_large:
        async for chunk in request.stream():
            body += chunk
            too_large = len(body) > max_bytes
            if too_large:
                break
    if too_large:
        raise ApiError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"expected a body of at most {max_bytes} bytes; send less at once, or raise serve.max_body_bytes",
            code="body_too_large",
        )
    return bytes(body)


def _question(chat: ChatRequest, limit: int, config: ServeConfig) -> Question:
    urls = [
        part.image_url.url for turn in chat.messages for part in turn.content if isinstance(part, ImagePart)
    ]
    pictures = iter(decode_images(urls, max_images=config.max_images, max_pixels=config.max_pixels))
    messages = [_message(turn, pictures) for turn in chat.messages]
    seed = secrets.randbits(31) if chat.seed is None else chat.seed
    return Question(messages, max_new_tokens=limit, temperature=chat.temperature, seed=seed)


def _message(turn: RequestMessage, pictures: Iterator[Image.Image]) -> ChatMessage:
    parts: list[ChatPart] = [
        {"type": "image", "image": next(pictures)}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in turn.content
    ]
    return {"role": "system" if turn.role == "developer" else turn.role, "content": parts}


def _as_error(refusal: Refusal) -> ApiError:
    if refusal.reason is Reason.MODEL_FAILED:
        return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, refusal.detail, code="model_failed")
    too_long = refusal.reason is Reason.TOO_MANY_TOKENS
    code = "context_length_exceeded" if too_long else refusal.reason or "invalid_value"
    return bad_request(refusal.detail, code=code, param="messages")


async def _in_time(
    events: AsyncGenerator[str | ChatResult, None], timeout_s: float
) -> AsyncGenerator[str | ChatResult, None]:
    """The same events, up to a deadline for all of them together."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    async with aclosing(events):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ApiError(
                    HTTPStatus.GATEWAY_TIMEOUT,
                    f"the answer took more than {timeout_s:g} s; ask for fewer tokens or later",
                    code="timeout",
                ) from None
            yield event


async def _chained(
    first: str | ChatResult, rest: AsyncGenerator[str | ChatResult, None]
) -> AsyncIterator[str | ChatResult]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


def _json(
    model: ModelList | Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return Response(model.model_dump_json(), status, headers, media_type="application/json")


async def _refused(_request: Request, err: Exception) -> Response:
    assert isinstance(err, ApiError)
    headers = {} if err.retry_after_s is None else {"Retry-After": str(err.retry_after_s)}
    if err.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _json(err.body(), err.status, headers)


async def _no_route(_request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    status = HTTPStatus(err.status_code)
    message = f"{status.phrase}; this server knows POST /v1/chat/completions, GET /v1/models and GET /healthz"
    return _json(ApiError(status, message, code="unknown_route").body(), status, dict(err.headers or {}))


async def _failed(_request: Request, _err: Exception) -> Response:
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _json(ApiError(status, "this server failed", code="internal_error").body(), status)
