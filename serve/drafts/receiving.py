"""The request: a study as multipart or JSON, and what is wanted of it, in the query."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from sonoloop.platform.lexicon import Organ
from sonoloop.serve.config import ServeConfig
from sonoloop.serve.protocol import bad_request, first_fault
from sonoloop.serve.reading import FormInMemory, read_body

AnswerFormat = Literal["json", "fhir", "sr"]
MEDIA_TYPES: dict[AnswerFormat, str] = {
    "json": "application/json",
    "fhir": "application/fhir+json",
    "sr": "application/dicom",
}


class Wishes(BaseModel):
    """The query of ``POST /v1/drafts``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: AnswerFormat = "json"
    stream: bool = Field(default=False, description="server-sent events; only JSON")
    keep: bool = Field(default=False, description="write case, frames and draft into the workspace")
    images: Literal["inline", "links", "none"] = Field(
        default="inline",
        description="frames as data URIs, as addresses (null until and unless they are kept), or not at all",
    )
    organ: Organ | None = Field(
        default=None, description="the organ that the model is told, whatever the files say"
    )

    @classmethod
    def of(cls, request: Request) -> Wishes:
        """What a request asks for; the query's ``format`` goes before the header ``Accept``.

        Raises:
            ApiError: 400, an unknown parameter, an impossible value, or two that do not go together.
        """
        query = dict(request.query_params)
        accepted = request.headers.get("accept", "")
        named = [name for name, media in MEDIA_TYPES.items() if media in accepted]
        try:
            wishes = cls.model_validate({"format": named[0] if named else "json", **query})
        except ValidationError as err:
            place, first = first_fault(err)
            known = ", ".join(cls.model_fields)
            said = f"unknown; known are {known}" if first["type"] == "extra_forbidden" else first["msg"]
            raise bad_request(f"{place}: {said}", param=place) from None
        if wishes.stream and wishes.format != "json":
            raise bad_request("only JSON can be streamed; leave out format or stream", param="stream")
        if wishes.images == "links" and not wishes.keep:
            raise bad_request("there are addresses only of what is kept; add keep=true", param="images")
        return wishes


class _Files(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    files: list[str] = Field(min_length=1, description="each base64, or a data URI")


_SCHEMA = Wishes.model_json_schema()
DESCRIBED: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "schema": schema} for name, schema in _SCHEMA["properties"].items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                        }
                    },
                }
            },
            "application/json": {"schema": _Files.model_json_schema()},
        },
    },
}
"""The query and the body for the API's description: the route reads them itself."""


async def received_files(request: Request, config: ServeConfig) -> list[bytes]:
    """The study's files.

    JSON is as large as any other at most: it is parsed whole, and all else stands still meanwhile.

    Raises:
        ApiError: 400, neither multipart nor JSON, no file, or too many; 413, JSON too large; from the guard,
            a body too large.
    """
    max_files = config.studies.max_files
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        files = await _from_form(request, max_files)
    elif kind == "application/json":
        files = await asyncio.to_thread(_from_json, await read_body(request, config.max_body_bytes))
    else:
        raise bad_request("expected a body of multipart/form-data or application/json", param="body")
    if not files:
        raise bad_request("expected at least one file in the form", param="files")
    if len(files) > max_files:
        raise bad_request(f"expected at most {max_files} files", code="too_many_files", param="files")
    return files


async def _from_form(request: Request, max_files: int) -> list[bytes]:
    parser = FormInMemory(request.headers, request.stream(), max_files=max_files, max_fields=0)
    try:
        form = await parser.parse()
    except MultiPartException as err:
        raise bad_request(
            f"expected a form of at most {max_files} files and nothing else ({err.message})",
            param="body",
        ) from None
    try:
        return [await part.read() for _, part in form.multi_items() if isinstance(part, UploadFile)]
    finally:
        await form.close()


def _from_json(body: bytes) -> list[bytes]:
    try:
        given = _Files.model_validate_json(body).files
    except ValidationError as err:
        place, first = first_fault(err)
        raise bad_request(f"{place or 'body'}: {first['type']}", param=place or "body") from None
    try:
        return [base64.b64decode(text.rpartition(",")[2], validate=True) for text in given]
    except (binascii.Error, ValueError):
        raise bad_request("expected every file as base64 or a data URI", param="files") from None
