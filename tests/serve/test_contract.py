"""What ``/openapi.json`` promises, held against the real door and a real, tiny engine by schemathesis."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.openapi import from_asgi
from starlette.testclient import TestClient
from tests.serve.doors import API_KEY, NAME, app_of

from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.serve.config import ServeConfig

HEADERS = {"Authorization": f"Bearer {API_KEY}"}


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (56, 56), 90).save(stream, "PNG")
    return stream.getvalue()


IMAGE = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"


@pytest.fixture(scope="module")
def app(untrained_folder: Path) -> FastAPI:
    engine = TransformersEngine(untrained_folder, EngineConfig(device="cpu"))
    return app_of(engine, ServeConfig(max_tokens=4, max_choices=2))


@pytest.fixture(scope="module")
def described(app: FastAPI) -> Any:
    return from_asgi("/openapi.json", app)


def make_answerable(case: schemathesis.Case) -> None:
    """What no description can say: which model is here, that an image is one, that the user speaks last."""
    if case.method == "GET" and "model" in (case.path_parameters or {}):
        case.path_parameters["model"] = NAME
    if isinstance(case.body, dict) and "file" in case.body:
        case.body["file"] = picture()
    if not isinstance(case.body, dict) or "messages" not in case.body:
        return
    case.body["model"] = NAME
    case.body["messages"] = case.body["messages"][:2]
    case.body["messages"][-1]["role"] = "user"
    for turn in case.body["messages"]:
        if not isinstance(turn["content"], str):
            turn["content"] = [_known(part) for part in turn["content"][:2]]
    if case.body.get("top_logprobs") is not None:
        case.body["logprobs"] = True
    if case.body.get("stream_options") is not None:
        case.body["stream"] = True
    wanted = case.body.get("response_format") or {}
    if "json_schema" in wanted:
        wanted["json_schema"]["schema"] = {"type": "object"}


def _known(part: dict[str, Any]) -> dict[str, Any]:
    return part if part["type"] == "text" else {"type": "image_url", "image_url": {"url": IMAGE}}


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_route_answers_as_described(described: Any, mode: GenerationMode) -> None:
    asked = set()
    for operation in (found.ok() for found in described.get_all_operations()):

        @settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case: schemathesis.Case) -> None:
            asked.add(case.operation.label)
            if mode is GenerationMode.POSITIVE:
                make_answerable(case)
            case.call_and_validate(headers=HEADERS)

        try:
            answers()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, operation.label  # no parameter, nothing that can be wrong
    assert asked >= {"POST /v1/chat/completions", "POST /v1/files", "GET /v1/files"}


def test_the_description_needs_no_key_and_names_no_model(app: FastAPI) -> None:
    response = TestClient(app).get("/openapi.json")
    assert response.status_code == 200
    assert response.json()["openapi"].startswith("3.1")
    assert NAME not in response.text
    operations = [one for path in response.json()["paths"].values() for one in path.values()]
    assert all("operationId" in one and "422" not in one["responses"] for one in operations)
