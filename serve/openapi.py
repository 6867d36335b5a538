"""The public description of the API, OpenAPI 3.1: FastAPI's, and the bodies that our own parser reads."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from sonoloop.model.openai.errors import ErrorBody
from sonoloop.model.openai.request import ChatRequest

_ABOUT = """Ask an ultrasound model, in the words of OpenAI's API.

Every error has the same form. A field that is null counts as not given; a field that is unknown or would have
no effect is refused by name."""

KEYED = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""What any route behind a key may answer."""

_HEADERS = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    HTTPStatus.TOO_MANY_REQUESTS: {
        "Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}
    },
}


def errors(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may answer with these error statuses."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        described[int(status)] = {"model": ErrorBody, "description": status.phrase}
        if status in _HEADERS:
            described[int(status)]["headers"] = _HEADERS[status]
    return described


def json_body(name: str) -> dict[str, Any]:
    """The ``openapi_extra`` of a route that reads a body by itself; ``name`` is its record's."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def described(app: FastAPI, most: Mapping[str, int]) -> dict[str, Any]:
    """The description of an application's routes.

    Args:
        app: With all its routes.
        most: Upper limits of this server: field of a chat request -> largest value.
    """
    document = get_openapi(title="sonoloop", version="1", description=_ABOUT, routes=app.routes)
    for path in document["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]  # FastAPI's own; here it is 400, in our form
            operation.setdefault("security", [{"key": []}])
    components = document["components"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    _, bodies = models_json_schema([(ChatRequest, "validation")], ref_template="#/components/schemas/{model}")
    components["schemas"] |= bodies["$defs"]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    for field, largest in most.items():
        components["schemas"]["ChatRequest"]["properties"][field]["anyOf"][0]["maximum"] = largest
    return document
