"""The lines of OpenAI's batch files: JSON lines in, JSON lines out, joined by ``custom_id``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints
from pydantic_core import to_json

from sonoloop.model.openai.answer import ChatCompletion
from sonoloop.model.openai.errors import ErrorBody
from sonoloop.model.openai.given import Given
from sonoloop.model.openai.request import ChatRequest


class BatchLine(Given):
    """One request of a batch file. Its body is read apart, so that one bad body costs one answer."""

    custom_id: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="unique within the file"
    )
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: dict[str, Any]

    def chat(self) -> ChatRequest:
        """The request.

        Raises:
            ApiError: 400, with the first field that is wrong and without its value.
        """
        return ChatRequest.parse(to_json(self.body, inf_nan_mode="constants"))


class BatchResponse(BaseModel):
    """What ``/v1/chat/completions`` would have answered."""

    status_code: int
    request_id: str
    body: ChatCompletion | ErrorBody


class BatchError(BaseModel):
    """Why a request was never answered at all."""

    code: str
    message: str


class BatchAnswer(BaseModel):
    """One line of the output: a response (which may be an error of the request) or an error."""

    id: str
    custom_id: str
    response: BatchResponse | None = None
    error: BatchError | None = None
