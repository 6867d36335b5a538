"""The ML backend over a model that drafts at once: scores are as calibrated now, and keys are charged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.fixed import fixed

from sonoloop.model.calibration import Calibrator
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.model.scaling import Scaling
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store
from sonoloop.serve.app import Api
from sonoloop.serve.config import DraftsConfig, ServeConfig, ServeSettings
from sonoloop.serve.drafts import calibrators
from sonoloop.serve.drafts.case import DraftCase
from sonoloop.serve.keys import Scope, add_key, key_digest
from sonoloop.serve.labelstudio.backend import Backend
from sonoloop.serve.reading import read_body

API_KEY = "test-key-0123456789abcdef"
CALIBRATION = ("models", "nano", "1", "calibration.json")
AS_WRITTEN = 0.9


async def draft(cases: list[DraftCase]) -> list[DraftRecord]:
    return [
        DraftRecord(
            case_id=case.case_id,
            run_id="serve",
            model_version="nano/1",
            prompt_version=PROMPT_VERSION,
            config_hash="h",
            status="draft",
            findings="Normal.",
            impression="Normal.",
            entities='{"organ":"liver","parenchyma":"coarse","lesion":"absent"}',
            value_probabilities={"parenchyma": AS_WRITTEN},
            num_tokens=400,
        )
        for case in cases
    ]


def no_question(_question: Any) -> Any:
    raise AssertionError("the model was asked")


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture
def door(workspace: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., httpx.Response]:
    """Sends a request to one door, which stays the same."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "some key")
    config = ServeConfig(drafts=DraftsConfig(tasks_per_chunk=2))
    assert config.drafts is not None
    settings = ServeSettings(workspace=workspace.uri, serve=config)
    backend = Backend(
        config.drafts, settings, lambda: "nano/1", draft, lambda request: read_body(request, 5000)
    )
    rooms = [backend.router]
    app = Api(config, "nano", fixed("nano/1", no_question), key_digest(API_KEY), rooms, workspace).app()

    async def send(method: str, path: str, key: str, body: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as http:
            return await http.request(method, path, json=body, auth=("sonoloop", key))

    return lambda method, path, key=API_KEY, body=None: asyncio.run(send(method, path, key, body))


def asked(workspace: Store, num_tasks: int = 1) -> dict[str, Any]:
    """What the page asks: drafts that it shows, and does not store."""
    data = {"case_id": "c", "images": [f"{workspace.uri}/images/ab/{'a' * 64}.png"]}
    tasks = [{"id": number, "data": data} for number in range(num_tasks)]
    return {"project": "1.1", "tasks": tasks, "params": {"context": {}}}


def score(door: Callable[..., httpx.Response], workspace: Store) -> float:
    (result,) = door("POST", "/predict", body=asked(workspace)).json()["results"]
    assert result["result"]
    return float(result["score"])


def fit(workspace: Store, bias: float) -> float:
    """What `evaluate` leaves beside the weights; gives what the draft's score becomes under it."""
    scaling = Scaling(bias=bias)
    fitted = Calibrator(
        model_version="nano/1", prompt_version=PROMPT_VERSION, snapshot="s", pooled=scaling, organs={}
    )
    workspace.write_bytes(fitted.model_dump_json().encode(), *CALIBRATION)
    return pytest.approx(scaling(AS_WRITTEN))  # type: ignore[no-any-return]


def test_a_calibrator_that_was_fitted_since_counts_before_long(
    door: Callable[..., httpx.Response], workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score(door, workspace) == AS_WRITTEN
    fitted = fit(workspace, -1.0)
    assert score(door, workspace) == AS_WRITTEN  # not a look for every draft
    monkeypatch.setattr(calibrators, "KEPT_S", 0.0)  # as if it had passed
    assert score(door, workspace) == fitted


def test_a_workspace_that_does_not_answer_costs_no_draft_and_keeps_the_last_score(
    door: Callable[..., httpx.Response],
    workspace: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    read = Store.read_bytes

    def refuse(store: Store, *parts: str) -> bytes:
        if parts == CALIBRATION:
            raise StorageError("no answer from s3://bucket")
        return read(store, *parts)

    monkeypatch.setattr(calibrators, "KEPT_S", 0.0)
    monkeypatch.setattr(calibrators, "PAUSE_S", 0.0)
    fitted = fit(workspace, -1.0)
    assert score(door, workspace) == fitted
    with monkeypatch.context() as away:
        away.setattr(Store, "read_bytes", refuse)
        assert score(door, workspace) == fitted
    assert "(StorageError)" in caplog.text
    assert "s3://" not in caplog.text
    refitted = fit(workspace, 1.0)
    assert score(door, workspace) == refitted


def test_a_key_is_charged_for_its_drafts(door: Callable[..., httpx.Response], workspace: Store) -> None:
    _, key = add_key(workspace, "ward-3", [Scope.DRAFTS], tokens_per_minute=1000)
    _, other = add_key(workspace, "ward-4", [Scope.DRAFTS], tokens_per_minute=1000)
    answer = door("POST", "/predict", key, asked(workspace, 3))
    assert [status["status"] for status in answer.json()["statuses"]] == ["drafted"] * 3
    refused = door("GET", "/versions", key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert door("GET", "/versions", other).headers["x-ratelimit-remaining-tokens"] == "1000"
