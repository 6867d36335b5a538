"""One request of a batch file to its line of the output: every way it can end is such a line."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from sonoloop.jobs.batching.lines import Line
from sonoloop.model.chat import ChatResult
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.open_engine import LoadedEngine
from sonoloop.model.openai.answer import ChatCompletion, Identity
from sonoloop.model.openai.batch import BatchAnswer, BatchError, BatchLine, BatchResponse
from sonoloop.model.openai.conversation import completion, conversation, options
from sonoloop.model.openai.errors import ApiError, ErrorBody, bad_request, refused
from sonoloop.model.openai.images import decode_images
from sonoloop.model.openai.request import ChatRequest
from sonoloop.model.structured import SchemaError
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

MAX_REQUEST_PIXELS = 2**25
"""Of all images of one request, as where the model is served."""
_KEY_FRAME = re.compile(r"images/[0-9a-f]{2}/[0-9a-f]{64}\.png")


@dataclass(frozen=True)
class Asker:
    """What all requests of a batch have in common.

    Everything that a line of the output holds comes from here and from the request, nothing from a clock or
    from chance: the same batch gives the same bytes.

    Attributes:
        engine: The loaded model.
        limits: Of its settings: images of a request, tokens of an answer (``max_report_tokens``).
        workspace: Whose key frames may be named.
        run_id: The run.
        created: When it began, Unix seconds.
        version: ``<name>/<digest>`` of the model.
    """

    engine: LoadedEngine
    limits: EngineConfig
    workspace: Store
    run_id: str
    created: int
    version: str

    def answer(self, line: Line) -> str:
        """The line of the output for a line of the input."""
        try:
            request = BatchLine.parse(line.text)
        except ApiError as err:
            return self._unanswerable(line, f"line {line.number}: {err.message}")
        try:
            return self._responded(line, HTTPStatus.OK, self._completion(line, request))
        except ApiError as err:
            return self._responded(line, err.status, err.body())

    def given_up(self, line: Line, err: RejectedError) -> str:
        """The line of the output for a request that took its process down or never ended."""
        error = BatchError(code=err.reason, message=f"line {line.number}: {err.detail}")
        return self._told(line, error=error)

    def _completion(self, line: Line, request: BatchLine) -> ChatCompletion:
        chat = request.chat()
        self._check(chat)
        ways = options(chat, max_tokens=self.limits.max_report_tokens, seed=self._seed(line))
        sources = [self._with_key_frame(source) for source in chat.images]
        pictures = decode_images(sources, max_images=self.limits.max_images, max_pixels=MAX_REQUEST_PIXELS)
        messages = conversation(chat, pictures)
        try:
            results: Sequence[ChatResult] = [self.engine.chat(messages, way) for way in ways]
        except RejectedError as err:
            raise refused(err.reason, err.detail) from None
        except ValueError as err:
            param = "response_format" if isinstance(err, SchemaError) else "messages"
            raise refused(None, str(err), param=param) from None
        except Exception as err:  # the boundary: one request costs no other its answer
            frames = "".join(traceback.format_tb(err.__traceback__))
            logger.error("an answer failed with %s at\n%s", type(err).__name__, frames)
            raise refused(Reason.MODEL_FAILED, "the model failed on this request") from None
        return completion(self._identity(line), results, logprobs=chat.logprobs)

    def _check(self, chat: ChatRequest) -> None:
        if chat.stream:
            raise bad_request("a batch file's answers are whole; leave stream out", param="stream")
        if chat.model not in (self.version, self.version.partition("/")[0]):
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                f"no such model here; this run answers as {self.version}",
                code="model_not_found",
                param="model",
            )

    def _with_key_frame(self, source: str) -> str:
        """A key frame of the workspace, named by its key or URI, as a data URI; others as they are."""
        key = source.removeprefix(f"{self.workspace.uri}/")
        if not _KEY_FRAME.fullmatch(key):
            return source
        try:
            data = self.workspace.read_bytes(key)
        except FileNotFoundError:
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                "a key frame is not in the workspace",
                code="file_not_found",
                param="messages",
            ) from None
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"

    def _seed(self, line: Line) -> int:
        return int.from_bytes(hashlib.sha256(line.text).digest()[:4]) >> 1

    def _name(self, prefix: str, line: Line) -> str:
        return f"{prefix}{hashlib.sha256(f'{self.run_id}:{line.number}'.encode()).hexdigest()[:24]}"

    def _identity(self, line: Line) -> Identity:
        return Identity(
            id=self._name("chatcmpl-", line),
            created=self.created,
            model=self.version,
            system_fingerprint=f"fp_{self.version.rpartition('/')[2]}",
        )

    def _responded(self, line: Line, status: int, body: ChatCompletion | ErrorBody) -> str:
        response = BatchResponse(status_code=status, request_id=self._name("req_", line), body=body)
        return self._told(line, response=response)

    def _unanswerable(self, line: Line, message: str) -> str:
        return self._told(line, error=BatchError(code="invalid_request", message=message))

    def _told(
        self, line: Line, *, response: BatchResponse | None = None, error: BatchError | None = None
    ) -> str:
        told = BatchAnswer(
            id=self._name("batch_req_", line), custom_id=line.custom_id or "", response=response, error=error
        )
        return told.model_dump_json()
