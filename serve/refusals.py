"""What a request that is not answered looks like, whoever refused it: always OpenAI's error object."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from sonoloop.serve.protocol import ApiError, bad_request
from sonoloop.serve.reading import json_answer


def refuse_in_one_form(app: FastAPI) -> None:
    """Make every foreseen error of the application an error object; `Guard` does the others."""
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)


async def _refused(request: Request, err: Exception) -> Response:
    assert isinstance(err, ApiError)
    request.state.error_code = err.code  # for the count of requests
    headers = {} if err.retry_after_s is None else {"Retry-After": str(err.retry_after_s)}
    if err.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return json_answer(err.body(), err.status, headers)


async def _invalid(request: Request, err: Exception) -> Response:
    """A parameter of the path or the query is wrong; only its name and what was expected are told."""
    assert isinstance(err, RequestValidationError)
    first = err.errors()[0]
    name = str(first["loc"][-1])
    return await _refused(request, bad_request(f"{name}: {first['msg']}", param=name))


async def _no_route(_request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    status = HTTPStatus(err.status_code)
    message = f"{status.phrase}; what this server knows is described at GET /openapi.json"
    body = ApiError(status, message, code="unknown_route").body()
    return json_answer(body, status, dict(err.headers or {}))
