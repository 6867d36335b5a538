from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from pydantic import SecretStr

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio import upload as upload_module
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.upload import CaseUpload, TaskWriter, UploadCounts, upload

pytestmark = pytest.mark.labelstudio


def _state(door: LabelStudioDoor, project_id: int) -> dict[str | None, list[str | None]]:
    """Model versions by case; fails on a second task of a case."""
    tasks = list(door.all_tasks(project_id))
    assert len({task.data.case_id for task in tasks}) == len(tasks)
    return {task.data.case_id: sorted(p.model_version for p in task.predictions) for task in tasks}


@pytest.fixture
def project_id(door, title) -> int:
    return door.ensure_project(title, build_page()).id


def test_uploading_twice_leaves_one_task_per_case_and_one_prediction(door, project_id, case_upload) -> None:
    cases = [case_upload(f"case-{n}") for n in range(9)]
    told: list[int] = []
    assert upload(door, project_id, cases[:6], on_progress=told.append) == UploadCounts(num_new_tasks=6)
    assert told == [4, 2]
    again = upload(door, project_id, cases)
    assert again == UploadCounts(num_new_tasks=3, num_unchanged=6)
    assert _state(door, project_id) == {f"case-{n}": ["nano/1@p1"] for n in range(9)}


def test_a_new_model_version_adds_a_prediction_to_the_same_task(door, project_id, case_upload) -> None:
    upload(door, project_id, [case_upload("case-1"), case_upload("case-2")])
    newer = [case_upload("case-1", version="nano/2"), case_upload("case-3", version="nano/2")]
    assert upload(door, project_id, newer) == UploadCounts(num_new_tasks=1, num_new_predictions=1)
    assert upload(door, project_id, newer) == UploadCounts(num_unchanged=2)
    assert _state(door, project_id) == {
        "case-1": ["nano/1@p1", "nano/2@p1"],
        "case-2": ["nano/1@p1"],
        "case-3": ["nano/2@p1"],
    }


def test_a_case_without_a_draft_becomes_an_empty_task_that_a_later_draft_fills(
    door, project_id, case_upload
) -> None:
    case = case_upload("case-1")
    upload(door, project_id, [CaseUpload(case.data)])
    assert _state(door, project_id) == {"case-1": []}
    assert upload(door, project_id, [case]) == UploadCounts(num_new_predictions=1)


def test_imports_that_time_out_are_looked_up_and_nothing_doubles(
    stack_labelstudio, title, case_upload, monkeypatch
) -> None:
    monkeypatch.setattr(upload_module, "_PAUSE_S", 1.0)
    cases = [case_upload(f"case-{n:02d}") for n in range(40)]
    # Both imports of 40 take far longer than 20 ms, so each answer is missed while the server goes on.
    config = LabelStudioConfig(url=stack_labelstudio.url, import_timeout_s=0.02, max_attempts=6)
    with LabelStudioDoor(config, SecretStr(stack_labelstudio.api_key)) as door:
        project = door.ensure_project(title, build_page())
        assert upload(door, project.id, cases) == UploadCounts(num_new_tasks=40)
        newer = [case_upload(case.case_id, version="nano/2") for case in cases]
        assert upload(door, project.id, newer) == UploadCounts(num_new_predictions=40)
        state = _state(door, project.id)
    assert state == {case.case_id: ["nano/1@p1", "nano/2@p1"] for case in cases}


def _import(door: LabelStudioDoor, project_id: int, case: CaseUpload, *, predictions: int = 1) -> None:
    body = [{"data": case.data, "predictions": [case.prediction] * predictions}]
    door.connection.write("POST", f"/api/projects/{project_id}/import", body)


def test_doubles_that_got_in_are_removed_but_never_what_was_worked_on(door, project_id, case_upload) -> None:
    case = case_upload("case-1")
    for _ in range(3):
        _import(door, project_id, case)
    second = list(door.all_tasks(project_id))[1]
    door.create_annotation(second.id, [], parent_prediction=second.predictions[0].id)
    assert upload(door, project_id, [case]) == UploadCounts(num_unchanged=1)
    (left,) = door.all_tasks(project_id)
    assert left.id == second.id


def test_a_doubled_prediction_is_removed_and_the_oldest_stays(door, project_id, case_upload) -> None:
    case = case_upload("case-1")
    _import(door, project_id, case, predictions=3)
    (before,) = door.all_tasks(project_id)
    assert upload(door, project_id, [case]) == UploadCounts(num_unchanged=1)
    (after,) = door.all_tasks(project_id)
    assert [p.id for p in after.predictions] == [min(p.id for p in before.predictions)]


def test_another_score_and_another_draft_change_the_prediction_that_is_there(
    door, project_id, case_upload
) -> None:
    case = case_upload("case-1")
    upload(door, project_id, [case])
    surer = CaseUpload(case.data, {**case.prediction, "score": 0.125})
    assert upload(door, project_id, [surer]) == UploadCounts(num_updated=1)
    other = CaseUpload(case.data, {**surer.prediction, "result": case.prediction["result"][1:]})
    assert upload(door, project_id, [other]) == UploadCounts(num_updated=1)
    assert upload(door, project_id, [other]) == UploadCounts(num_unchanged=1)
    (task,) = door.all_tasks(project_id)
    (prediction,) = task.predictions
    assert prediction.score == 0.125
    assert list(prediction.result) == case.prediction["result"][1:]


def test_nothing_changes_under_somebody_who_works_on_a_task(door, project_id, case_upload) -> None:
    cases = [case_upload("case-1"), case_upload("case-2")]
    upload(door, project_id, cases)
    answered, begun = door.all_tasks(project_id)
    door.create_annotation(answered.id, [], parent_prediction=None)
    door.connection.write("POST", f"/api/tasks/{begun.id}/drafts", {"result": [], "lead_time": 1})
    newer = [case_upload(case.case_id, version="nano/2") for case in cases]
    assert upload(door, project_id, newer) == UploadCounts(num_unchanged=2)
    assert _state(door, project_id) == {"case-1": ["nano/1@p1"], "case-2": ["nano/1@p1"]}


@pytest.fixture
def second_reader(stack_labelstudio) -> Iterator[httpx.Client]:
    """Another person of the same organisation, logged in as a browser is."""
    with stack_labelstudio.http() as owner:
        invitation = owner.get("/api/invite").raise_for_status().json()["invite_url"]
    email = f"{secrets.token_hex(4)}@example.com"
    with httpx.Client(base_url=stack_labelstudio.url, timeout=60, trust_env=False) as http:
        http.get(invitation).raise_for_status()
        form = {"email": email, "password": secrets.token_hex(12)}
        http.post(invitation, data={**form, "csrfmiddlewaretoken": http.cookies["csrftoken"]})
        http.headers["X-CSRFToken"] = http.cookies["csrftoken"]
        assert http.get("/api/current-user/whoami").raise_for_status().json()["email"] == email
        yield http


def test_a_task_for_two_readers_goes_to_a_second_one_and_another_does_not(
    door, project_id, case_upload, second_reader
) -> None:
    for case, num_readers in ((case_upload("case-1"), 2), (case_upload("case-2"), 1)):
        upload(door, project_id, [replace(case, num_readers=num_readers)])
    for task in door.all_tasks(project_id):
        door.create_annotation(task.id, [], parent_prediction=None)
    assert _labeled(door, project_id) == {"case-1": False, "case-2": True}
    offered = second_reader.get(f"/api/projects/{project_id}/next").raise_for_status().json()
    assert offered["data"]["case_id"] == "case-1"
    second_reader.post(f"/api/tasks/{offered['id']}/annotations/", json={"result": []}).raise_for_status()
    assert _labeled(door, project_id) == {"case-1": True, "case-2": True}
    assert second_reader.get(f"/api/projects/{project_id}/next").status_code == httpx.codes.NOT_FOUND


def _labeled(door: LabelStudioDoor, project_id: int) -> dict[str, bool]:
    tasks = door.connection.get("/api/tasks/", project=project_id, fields="all")["tasks"]
    return {task["data"]["case_id"]: task["is_labeled"] for task in tasks}


def test_a_task_that_is_gone_or_another_cases_by_now_is_left_alone(door, project_id, case_upload) -> None:
    upload(door, project_id, [case_upload("case-1"), case_upload("case-2")])
    first, second = door.all_tasks(project_id)
    door.connection.write("DELETE", f"/api/tasks/{first.id}/")
    newer = case_upload("case-1", version="nano/2")
    writer = TaskWriter(door, project_id)
    assert writer.refresh({first.id: newer}) == {first.id: "gone"}
    assert writer.refresh({second.id: newer}) == {second.id: "gone"}
    assert _state(door, project_id) == {"case-2": ["nano/1@p1"]}


def test_other_images_of_a_case_replace_those_of_an_unreviewed_task_only(
    door, project_id, case_upload
) -> None:
    cases = [case_upload("case-1"), case_upload("case-2")]
    upload(door, project_id, cases)
    reviewed = next(t for t in door.all_tasks(project_id) if t.data.case_id == "case-2")
    door.create_annotation(reviewed.id, [], parent_prediction=None)
    moved = [CaseUpload({**case.data, "images": ["s3://other/i.png"]}, case.prediction) for case in cases]
    assert upload(door, project_id, moved) == UploadCounts(num_updated=1, num_unchanged=1)
    images = {task.data.case_id: task.data.images for task in door.all_tasks(project_id)}
    assert images["case-1"] == ("s3://other/i.png",)
    assert images["case-2"] == tuple(cases[1].data["images"])


def test_a_case_given_twice_is_refused_before_anything_is_sent(door, project_id, case_upload) -> None:
    with pytest.raises(ValueError, match="given twice"):
        upload(door, project_id, [case_upload("case-1"), case_upload("case-1")])
    assert _state(door, project_id) == {}


def test_a_missing_project_is_told(door, case_upload) -> None:
    with pytest.raises(ServiceError, match="404"):
        upload(door, 999_999, [case_upload("case-1")])
