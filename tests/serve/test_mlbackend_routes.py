"""The ML backend's routes over a model that must not be asked: keys, quick answers, hints."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.fixed import fixed

from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.tasks import TaskRecord, write_tasks
from sonoloop.platform.watch_hint import hinted_at
from sonoloop.platform.workspace import Store
from sonoloop.serve.app import Api
from sonoloop.serve.config import DraftsConfig, ServeConfig, ServeSettings
from sonoloop.serve.drafts.case import DraftCase
from sonoloop.serve.keys import key_digest
from sonoloop.serve.labelstudio.backend import Backend
from sonoloop.serve.reading import read_body

API_KEY = "test-key-0123456789abcdef"
VERSION = f"nano/1@{PROMPT_VERSION}"
CALLS = (("GET", "/health"), ("POST", "/setup"), ("GET", "/versions"), ("POST", "/predict"))


async def no_model(_cases: list[DraftCase]) -> list[DraftRecord]:
    raise AssertionError("the model was asked")


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., httpx.Response]:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "some key")
    config = ServeConfig(drafts=DraftsConfig(), max_body_bytes=5000)
    settings = ServeSettings(workspace=str(tmp_path), serve=config)
    backend = Backend(
        DraftsConfig(), settings, lambda: "nano/1", no_model, lambda request: read_body(request, 5000)
    )
    app = Api(config, "nano", fixed("nano/1", no_question), key_digest(API_KEY), [backend.router]).app()

    async def send(method: str, path: str, **how: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as http:
            return await http.request(method, path, **how)

    return lambda *what, **how: asyncio.run(send(*what, **how))


def no_question(_question: Any) -> Any:
    raise AssertionError("the model was asked")


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "header",
    [None, "Basic", "Basic !", f"Basic {base64.b64encode(b'sonoloop:wrong').decode()}", "Bearer wrong"],
)
def test_without_the_key_label_studio_is_told_401(
    ask: Callable[..., httpx.Response], method: str, path: str, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    assert ask(method, path, headers=headers).status_code == 401


@pytest.mark.parametrize(
    "how", [{"auth": ("anybody", API_KEY)}, {"headers": {"Authorization": f"Bearer {API_KEY}"}}]
)
def test_health_setup_and_versions_answer_with_the_version_and_leave_the_model_alone(
    ask: Callable[..., httpx.Response], how: dict[str, Any]
) -> None:
    health = ask("GET", "/health", **how).json()
    assert (health["status"], health["model_version"], health["tasks"]) == ("UP", VERSION, {"on_desk": 0})
    sent = {
        "project": "1.1",
        "schema": "<View/>",
        "hostname": "",
        "access_token": "a token",
        "extra_params": None,
    }
    assert ask("POST", "/setup", json=sent, **how).json() == {"model_version": VERSION}
    assert ask("GET", "/versions", **how).json() == {"versions": [VERSION]}


def test_tasks_with_images_elsewhere_are_answered_in_order_and_nothing_is_fetched(
    ask: Callable[..., httpx.Response],
) -> None:
    tasks = [
        {"id": 4, "data": {"case_id": "c", "images": ["http://127.0.0.1:1/x.png"]}},
        {"id": 2, "data": {"text": "another project's"}},
    ]
    body = {"project": "1.1", "tasks": tasks, "label_config": "", "params": {"context": None}}
    answer = ask("POST", "/predict", json=body, auth=("a", API_KEY)).json()
    assert answer["results"] == [[], []]
    assert answer["statuses"] == [
        {"task": 4, "status": "foreign-image"},
        {"task": 2, "status": "not-a-case"},
    ]
    page = ask("POST", "/predict", json={**body, "params": {"context": {}}}, auth=("a", API_KEY)).json()
    assert page["results"] == [{"model_version": VERSION, "score": None, "result": []}] * 2


def test_a_case_that_is_to_be_read_without_a_draft_gets_none(
    ask: Callable[..., httpx.Response], tmp_path: Path
) -> None:
    control = TaskRecord(
        project="p",
        case_id="c",
        task_id=4,
        purpose="control",
        strategy="random",
        num_readers=1,
        model_version=None,
        state="sent",
        written_at=datetime.now(UTC),
    )
    write_tasks(Store(str(tmp_path)), [control])
    data = {"case_id": "c", "images": [f"{tmp_path}/images/ab/{'a' * 64}.png"]}
    body = {"project": "1.1", "tasks": [{"id": 4, "data": data}], "label_config": "", "params": {}}
    answer = ask("POST", "/predict", json=body, auth=("a", API_KEY)).json()
    assert (answer["results"], answer["statuses"]) == ([[]], [{"task": 4, "status": "control"}])


def test_a_body_that_is_too_large_or_no_request_is_refused(ask: Callable[..., httpx.Response]) -> None:
    assert ask("POST", "/predict", content=b" " * 5001, auth=("a", API_KEY)).status_code == 413
    assert ask("POST", "/predict", content=b"[]", auth=("a", API_KEY)).status_code == 400


def test_an_event_needs_no_key_and_leaves_only_a_hint(
    ask: Callable[..., httpx.Response], tmp_path: Path
) -> None:
    workspace = Store(str(tmp_path))
    assert hinted_at(workspace) is None
    event = {"action": "ANNOTATION_CREATED", "annotation": {"result": "Jane Doe"}}
    assert ask("POST", "/webhook", json=event).status_code == 200
    first = hinted_at(workspace)
    assert first is not None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["hint"]
    assert workspace.read_bytes("watch", "hint") == b""
    assert ask("POST", "/webhook", json=event).status_code == 200
    assert hinted_at(workspace) == first  # a storm of events is one hint


def test_without_a_key_for_label_studio_there_is_no_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY"):
        Backend(DraftsConfig(), ServeSettings(workspace=str(tmp_path)), lambda: "nano/1", no_model, _no_body)


def _no_body(_request: Any) -> Coroutine[Any, Any, bytes]:
    raise AssertionError("nothing was sent")
