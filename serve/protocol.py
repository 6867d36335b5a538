"""The part of OpenAI's chat completions that is spoken here: requests, answers, errors.

A parameter that would be ignored is refused instead, unless it asks for what happens anyway (``n=1``,
``top_p=1``) or is null, which in this protocol means "not given". Temperature defaults to 0, unlike OpenAI's
1: the most likely draft, and the same one again.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

FinishReason = Literal["stop", "length"]


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


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
        kind = "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        return ErrorBody(error=ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code))


def bad_request(message: str, *, code: str = "invalid_value", param: str | None = None) -> ApiError:
    """Status 400: the asker must change the request."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, code=code, param=param)


class _Given(BaseModel):
    """A part of a request; null stands for a field that is not given, other unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


class TextPart(_Given):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Given):
    """An image as a data URI; ``detail`` is taken and has no effect, images are read at one resolution."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Given):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class RequestMessage(_Given):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts)]
    name: str | None = None


class StreamOptions(_Given):
    """What a streamed answer carries besides text."""

    include_usage: bool = False


def first_fault(err: ValidationError) -> tuple[str | None, ErrorDetails]:
    """The place of the first field that is wrong, if it has one, and what is wrong; without its value."""
    first = err.errors(include_input=False, include_url=False, include_context=False)[0]
    return ".".join(str(part) for part in first["loc"]) or None, first


class ChatRequest(_Given):
    """Body of ``POST /v1/chat/completions``."""

    model: str
    messages: list[RequestMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None
    n: Literal[1] = 1
    top_p: float = Field(default=1, ge=1, le=1)
    presence_penalty: float = Field(default=0, ge=0, le=0)
    frequency_penalty: float = Field(default=0, ge=0, le=0)

    @classmethod
    def parse(cls, body: bytes) -> ChatRequest:
        """Read a request's body.

        Raises:
            ApiError: 400, with the first field that is wrong and without its value.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as err:
            place, first = first_fault(err)
            if first["type"] == "extra_forbidden":
                raise bad_request(
                    f"{place} is not supported here; leave it out", code="unsupported_parameter", param=place
                ) from None
            # this one kind of message quotes what was sent
            said = (
                "expected a part of type text or image_url"
                if first["type"] == "union_tag_invalid"
                else first["msg"]
            )
            text = f"{place}: {said}" if place else said
            raise bad_request(text, param=place) from None  # the cause would carry the prompt into a log

    def token_limit(self, most: int) -> int:
        """New tokens allowed.

        Args:
            most: What the server gives at most, and without a wish.

        Raises:
            ApiError: 400, more was asked for.
        """
        wished = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if wished is not None and wished > most:
            name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
            raise bad_request(f"expected {name} up to {most}, found {wished}", param=name)
        return most if wished is None else wished


class Usage(BaseModel):
    """Tokens of one exchange; image tokens count as prompt tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Usage:
        """Both counts and their sum."""
        total = prompt_tokens + completion_tokens
        return cls(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A whole answer; ``model`` names the version that gave it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix time, seconds")
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(BaseModel):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The one answer's next piece."""

    index: int = 0
    delta: Delta
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    """One event of a streamed answer; the last one may carry usage and no choice."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int = Field(description="Unix time, seconds")
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """One model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time of this server's start, seconds")
    owned_by: str = "sonoloop"


class ModelList(BaseModel):
    """Body of ``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
