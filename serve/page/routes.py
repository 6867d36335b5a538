"""The page's files. They hold nothing of anybody and need no key; what the page asks for does.

What the page may do is the policy in every answer's headers, see `sonoloop.serve.guard`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def page_router(_key: Any) -> APIRouter:
    """``/`` and ``/page/<file>``."""
    router = APIRouter()
    for file in files("sonoloop.serve.page").iterdir():
        kind = MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            answer = _answering(file.read_bytes(), kind)
            router.add_api_route(path, answer, methods=["GET"], include_in_schema=False)
    return router


def _answering(data: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(data, media_type=f"{kind}; charset=utf-8")

    return answer
