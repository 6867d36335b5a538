"""Drafts brought to a real Label Studio after the answer: never doubled, never where they do not belong."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.predictions import Prediction
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.serve.labelstudio import delivery
from sonoloop.serve.labelstudio.delivery import deliver
from sonoloop.serve.labelstudio.protocol import SentTask

if TYPE_CHECKING:
    from tests.conftest import LabelStudioStack

TEXT: Any = {
    "id": "findings",
    "from_name": "findings",
    "to_name": "image",
    "type": "textarea",
    "value": {"text": ["An oval mass."]},
}


def prediction(version: str = "nano/1@p", score: float = 0.5) -> Prediction:
    return {"model_version": version, "score": score, "result": [TEXT]}


@pytest.fixture
def project(stack_labelstudio: LabelStudioStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A project with three tasks that have no draft, and the tasks as Label Studio sends them."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", stack_labelstudio.api_key)
    config = LabelStudioConfig(url=stack_labelstudio.url, project=f"Delivery {secrets.token_hex(4)}")
    with LabelStudioDoor(config, SecretStr(stack_labelstudio.api_key)) as door:
        made = door.ensure_project(config.project, build_page())
        upload(door, made.id, [CaseUpload(_data(f"c{number}")) for number in range(3)])
        sent = [
            SentTask(id=task.id, data=dict(_data(str(task.data.case_id)))) for task in door.all_tasks(made.id)
        ]
        yield SimpleNamespace(config=config, door=door, id=made.id, sent=sent)


def _data(case_id: str) -> Any:
    images = ["s3://bucket/ws/images/ab/abcd.png"]
    return {"case_id": case_id, "images": images, "organ_hint": "breast", "scanner": "x"}


def stored(project: Any) -> dict[str, list[str | None]]:
    return {
        str(task.data.case_id): [found.model_version for found in task.predictions]
        for task in project.door.all_tasks(project.id)
    }


@pytest.mark.labelstudio
def test_each_task_gets_its_draft_once_however_often_it_is_delivered(project: Any) -> None:
    drafted = [(task, prediction()) for task in project.sent]
    assert deliver(project.config, project.id, drafted[:2]) == 2
    assert deliver(project.config, project.id, drafted) == 1
    assert stored(project) == {f"c{number}": ["nano/1@p"] for number in range(3)}
    assert deliver(project.config, project.id, [(project.sent[0], prediction("nano/2@p"))]) == 1
    assert sorted(map(str, stored(project)["c0"])) == ["nano/1@p", "nano/2@p"]


@pytest.mark.labelstudio
def test_a_prediction_of_the_version_that_is_there_is_left_as_it_is(project: Any) -> None:
    deliver(project.config, project.id, [(project.sent[0], prediction(score=0.25))])
    assert deliver(project.config, project.id, [(project.sent[0], prediction(score=0.75))]) == 0
    (found,) = project.door.connection.get("/api/predictions/", task=project.sent[0].id)
    assert found["score"] == 0.25


@pytest.mark.labelstudio
def test_a_deleted_task_does_not_come_back_and_a_foreign_one_is_never_made(project: Any) -> None:
    project.door.connection.write("DELETE", f"/api/tasks/{project.sent[0].id}/")
    other_server = project.sent[1].model_copy(update={"id": project.sent[1].id + 10_000})
    drafted = [(project.sent[0], prediction()), (other_server, prediction())]
    assert deliver(project.config, project.id, drafted) == 0
    assert stored(project) == {"c1": [], "c2": []}


def test_a_label_studio_that_is_away_is_tried_again_before_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "PAUSE_S", 0.01)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "legacy")
    task = SentTask(id=1, data=_data("c0"))
    with pytest.raises(ServiceError, match="does not answer"):
        deliver(LabelStudioConfig(url="http://127.0.0.1:1"), 1, [(task, prediction())])
    assert caplog.text.count("1 drafts wait") == delivery.ATTEMPTS - 1
