"""A request that is not answered, as OpenAI tells it. Nothing in here ever quotes a request."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal, TypeAlias

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from sonoloop.platform.errors import Reason

ErrorKind: TypeAlias = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="for people: expected, found, what to do")
    type: ErrorKind
    param: str | None = Field(description="the field of the request that is at fault")
    code: str = Field(description="for programs")


class ErrorBody(BaseModel):
    """Body of every answer with an error status."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is not answered; becomes OpenAI's error object.

    Args:
        status: HTTP status.
        message: For the asker: expected, found, what to do. Never content of the request.
        code: Short word for programs.
        param: The request's field that is at fault.
        retry_after_s: When to come back, seconds.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s

    def body(self) -> ErrorBody:
        """OpenAI's error object."""
        return ErrorBody(
            error=ErrorDetail(message=self.message, type=self._kind(), param=self.param, code=self.code)
        )

    def _kind(self) -> ErrorKind:
        if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return "server_error"
        too_many = self.status == HTTPStatus.TOO_MANY_REQUESTS
        return "rate_limit_error" if too_many else "invalid_request_error"


def bad_request(message: str, *, code: str = "invalid_value", param: str | None = None) -> ApiError:
    """Status 400: the asker must change the request."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, code=code, param=param)


def refused(reason: Reason | None, detail: str, *, param: str = "messages") -> ApiError:
    """What the engine refused, or failed on, as the asker is told.

    Args:
        reason: None where a value of the request is at fault.
        detail: Without a word of the request.
        param: The request's field that is at fault.
    """
    if reason is Reason.MODEL_FAILED:
        return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, detail, code="model_failed")
    too_long = reason is Reason.TOO_MANY_TOKENS
    code = "context_length_exceeded" if too_long else reason or "invalid_value"
    return bad_request(detail, code=code, param=param)


def first_fault(err: ValidationError) -> tuple[str | None, ErrorDetails]:
    """The place of the first field that is wrong, if it has one, and what is wrong; without its value."""
    first = err.errors(include_input=False, include_url=False)[0]
    context = first.pop("ctx", {})
    if first["type"] == "union_tag_invalid":  # the one message that quotes what was sent
        first["msg"] = f"expected one of the types {context['expected_tags']}"
    return ".".join(str(part) for part in first["loc"]) or None, first
