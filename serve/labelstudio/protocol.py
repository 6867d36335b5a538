"""What Label Studio sends to an ML backend and takes from it (measured with 1.23).

| call | sent | answered |
|---|---|---|
| ``GET /health`` | nothing; waits 1 s | anything, 200 |
| ``POST /setup`` | project, page, a token that is not kept; waits 3 s | ``model_version`` |
| ``GET /versions`` | nothing; waits 3 s | ``versions`` |
| ``POST /predict`` | all selected tasks at once; waits 100 s | ``results``, as below |
| ``POST /webhook`` | every event of the project, without a key; waits 1 s | anything, 200 |

``results`` must have an entry for each task, in order; with fewer Label Studio drops them all. An entry is
one prediction, which it stores under the task, or a list of them: an empty list stores nothing, and that is
how a task without a draft is answered. A prediction with an empty ``result`` would be stored, and would count
as the version's draft for ever. Only the page itself, which asks with a context and stores nothing, is
answered so. Further keys are ignored: ``statuses`` is for people who look at the answer.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.serve.labelstudio.cases import Status
from sonoloop.serve.protocol import bad_request, first_fault


class _Sent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SentTask(_Sent):
    """A task, as far as we read it."""

    id: int
    data: dict[str, Any]


class _Params(_Sent):
    context: Any = None


class PredictRequest(_Sent):
    """Body of ``POST /predict``."""

    project: str = Field(pattern=r"^[0-9]+(\.[0-9]+)?$", description="<project id>.<unix time it was made>")
    tasks: tuple[SentTask, ...]
    params: _Params = _Params()

    @classmethod
    def parse(cls, body: bytes) -> PredictRequest:
        """Read a request's body.

        Raises:
            ApiError: 400, with the first field that is wrong and without its value.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as err:
            place, first = first_fault(err)
            raise bad_request(f"{place or 'body'}: {first['type']}", param=place or "body") from None

    @property
    def project_id(self) -> int:
        """The project."""
        return int(self.project.partition(".")[0])

    @property
    def is_interactive(self) -> bool:
        """Whether the page asks, for a draft that it shows and does not store."""
        return self.params.context is not None


class TaskStatus(BaseModel):
    """What became of a task."""

    task: int
    status: Status


class PredictAnswer(BaseModel):
    """Body of the answer to ``POST /predict``."""

    results: list[Any] = Field(description="a `Prediction` for each task, or an empty list")
    statuses: list[TaskStatus]
