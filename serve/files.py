"""OpenAI's ``/v1/files`` for images: upload once, ask about it many times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from sonoloop.model.openai.images import decode_image
from sonoloop.serve.config import ServeConfig
from sonoloop.serve.openapi import KEYED, errors
from sonoloop.serve.protocol import ApiError, FileDeleted, FileList, FileObject, bad_request
from sonoloop.serve.reading import FormInMemory, json_answer, read_body
from sonoloop.serve.uploads import Uploads

MAX_FIELDS, MAX_FIELD_BYTES = 8, 1024
DECODED_AT_ONCE = 2
"""Decoding takes some 0.4 GB at the pixel limit, see `sonoloop.model.frames.MAX_PIXELS`."""
UPLOAD_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                    "purpose": {"const": "vision"},
                },
                "additionalProperties": False,
            }
        }
    },
}


class Files:
    """The routes.

    Args:
        config: Limits.
        uploads: Where uploads are kept.
    """

    def __init__(self, config: ServeConfig, uploads: Uploads) -> None:
        self._config, self._uploads = config, uploads
        self._max_pixels = min(config.max_pixels, config.uploads.max_bytes // 3)
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)

    def router(self, key: Any) -> APIRouter:
        """The routes.

        Args:
            key: The dependency that asks for the door's key and leaves it in the request's ``state.key``.
        """
        router = APIRouter(prefix="/v1/files", tags=["files"], dependencies=[key])
        router.add_api_route(
            "",
            self.upload,
            methods=["POST"],
            operation_id="createFile",
            response_model=FileObject,
            openapi_extra={"requestBody": UPLOAD_FORM},
            responses=errors(HTTPStatus.BAD_REQUEST, *KEYED),
        )
        router.add_api_route(
            "",
            self.listed,
            methods=["GET"],
            operation_id="listFiles",
            response_model=FileList,
            responses=errors(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, *KEYED),
        )
        one = errors(HTTPStatus.NOT_FOUND, *KEYED)
        router.add_api_route(
            "/{file_id}",
            self.found,
            methods=["GET"],
            operation_id="retrieveFile",
            response_model=FileObject,
            responses=one,
        )
        router.add_api_route(
            "/{file_id}",
            self.deleted,
            methods=["DELETE"],
            operation_id="deleteFile",
            response_model=FileDeleted,
            responses=one,
        )
        return router

    async def upload(self, request: Request) -> Response:
        """Keep an image for an hour (or as configured), in memory, for the key that brought it."""
        data = await self._image_of(request)
        async with self._decoding:
            picture = await asyncio.to_thread(
                decode_image, data, "file", max_pixels=self._max_pixels, param="file"
            )
        return json_answer(self._uploads.put(_owner(request), picture, len(data)))

    async def listed(
        self,
        request: Request,
        purpose: str | None = None,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    ) -> Response:
        """What this key has here."""
        owner = _owner(request)
        files = self._uploads.of(owner) if purpose in (None, "vision") else []
        if order == "desc":
            files.reverse()
        if after is not None:
            cursor = self._uploads.get(owner, after)
            files = files[files.index(cursor) + 1 :] if cursor in files else []
        page = files[:limit]
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return json_answer(FileList(data=page, first_id=first, last_id=last, has_more=len(files) > len(page)))

    async def found(self, request: Request, file_id: str) -> Response:
        """One upload."""
        return json_answer(self._uploads.get(_owner(request), file_id))

    async def deleted(self, request: Request, file_id: str) -> Response:
        """Forget an upload now."""
        self._uploads.delete(_owner(request), file_id)
        return json_answer(FileDeleted(id=file_id))

    async def _image_of(self, request: Request) -> bytes:
        body = await read_body(request, self._config.max_body_bytes)
        form = await _form(request, body)
        try:
            return await _image_in(form)
        finally:
            await form.close()


async def _image_in(form: FormData) -> bytes:
    for name in form:
        if name not in ("file", "purpose"):
            raise _unknown_field(name)
    if form.getlist("purpose") != ["vision"]:
        raise bad_request("expected the field purpose, once, as vision", param="purpose")
    match form.getlist("file"):
        case [UploadFile() as file]:
            return await file.read()
    raise bad_request("expected the field file, once, with a file", param="file")


async def _form(request: Request, body: bytes) -> FormData:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise bad_request("expected multipart/form-data with the fields file and purpose")

    async def pieces() -> AsyncGenerator[bytes, None]:
        for begin in range(0, len(body), 2**16):
            await asyncio.sleep(0)  # others have their turn
            yield body[begin : begin + 2**16]

    parser = FormInMemory(
        request.headers, pieces(), max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        return await parser.parse()
    except MultiPartException:
        raise bad_request(
            "the form cannot be read; expected multipart/form-data with the fields file and purpose only"
        ) from None


def _unknown_field(name: str) -> ApiError:
    if name.startswith("expires_after"):
        text = "expires_after is not supported here, every upload is kept equally long; leave it out"
        return bad_request(text, code="unsupported_parameter", param="expires_after")
    return bad_request("expected the fields file and purpose only", code="unsupported_parameter")


def _owner(request: Request) -> str:
    owner: str = request.state.key.name
    return owner
