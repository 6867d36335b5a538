"""Bodies of requests and answers, as bytes."""

from __future__ import annotations

import sys
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.formparsers import MultiPartParser

from sonoloop.serve.protocol import ApiError


class FormInMemory(MultiPartParser):
    """Starlette's parser, which by itself writes what is above 1 MiB to a disk."""

    spool_max_size = sys.maxsize


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


def json_answer(
    model: BaseModel, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """A record as the body of an answer."""
    return Response(model.model_dump_json(), status, headers, media_type="application/json")
