"""Body of ``POST /v1/chat/completions``, and of a line of a batch file.

A parameter that would be ignored is refused instead, unless it asks for what happens anyway
(``presence_penalty=0``) or is null, which in this protocol means "not given". Temperature defaults to 0,
unlike OpenAI's 1: the most likely draft, and the same one again.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from sonoloop.model.chat import MAX_TOP_LOGPROBS
from sonoloop.model.openai.errors import bad_request
from sonoloop.model.openai.given import Given

MAX_STOPS, MAX_STOP_CHARS, MAX_CHOICES = 4, 200, 128


class TextPart(Given):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(Given):
    """An image; ``detail`` is taken and has no effect, images are read at one resolution."""

    url: str = Field(description="data:image/png;base64,..., or the id of an uploaded file; never an address")
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Given):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl

    @property
    def source(self) -> str:
        """Data URI or file id."""
        return self.image_url.url


class FileId(Given):
    """An uploaded image."""

    file_id: Annotated[str, StringConstraints(pattern=r"^file-")]


class FilePart(Given):
    """An uploaded image, in OpenAI's other form."""

    type: Literal["file"]
    file: FileId

    @property
    def source(self) -> str:
        """File id."""
        return self.file.file_id


Part: TypeAlias = Annotated[TextPart | ImagePart | FilePart, Field(discriminator="type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class RequestMessage(Given):
    """One turn of the conversation; the last one is the user's."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]
    name: str | None = None


class StreamOptions(Given):
    """What a streamed answer carries besides text."""

    include_usage: bool = False


class NamedSchema(Given):
    """A JSON schema; it is obeyed whether ``strict`` is set or not."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    definition: dict[str, Any] = Field(
        default={}, alias="schema", description="of an object; without it, any object will do"
    )
    strict: bool = False


class AnyText(Given):
    """An answer of any form."""

    type: Literal["text"]


class AnyObject(Given):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class ObeyedSchema(Given):
    """An answer that obeys a JSON schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat: TypeAlias = Annotated[AnyText | AnyObject | ObeyedSchema, Field(discriminator="type")]
Stop: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]
Stops: TypeAlias = Annotated[list[Stop], Field(max_length=MAX_STOPS)]


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class ChatRequest(Given):
    """A conversation, and how its answer is to be written."""

    model: str
    messages: list[RequestMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, description="older name of max_completion_tokens")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="new tokens of each answer")
    temperature: float = Field(default=0.0, ge=0, le=2, description="0: the most likely token, always")
    top_p: float = Field(default=1.0, gt=0, le=1, description="draw from the tokens of this probability mass")
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES, description="answers; the next one has the next seed")
    stop: Annotated[Stops, BeforeValidator(_as_list, json_schema_input_type=Stop | Stops)] = Field(
        default=[], description="an answer ends before the first of these"
    )
    response_format: ResponseFormat = AnyText(type="text")
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = Field(default=None, description="taken and not kept")
    presence_penalty: float = Field(default=0, ge=0, le=0)
    frequency_penalty: float = Field(default=0, ge=0, le=0)
    store: Literal[False] = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs needs logprobs: true")
        if self.stream_options.include_usage and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options.include_usage needs stream: true")
        return self

    @property
    def schema_text(self) -> str | None:
        """The JSON schema that the answer must obey, where one was given."""
        wanted = self.response_format
        if isinstance(wanted, ObeyedSchema):
            return json.dumps(wanted.json_schema.definition)
        return "{}" if isinstance(wanted, AnyObject) else None

    @property
    def images(self) -> list[str]:
        """Data URIs and file ids of all images, in order."""
        parts = [part for turn in self.messages for part in turn.content]
        return [part.source for part in parts if not isinstance(part, TextPart)]

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
