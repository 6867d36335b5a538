from __future__ import annotations

import time
from dataclasses import replace

import pytest
from pydantic import SecretStr

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.annotations import reviews_of
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.regions import PageContent, corrected_regions
from sonoloop.platform.labelstudio.storage import ImageStorage
from sonoloop.platform.labelstudio.upload import upload
from sonoloop.platform.stack.s3 import load_or_create_keys

pytestmark = pytest.mark.labelstudio
KEY = SecretStr("a key of a test, long enough")


def _num_projects(door: LabelStudioDoor, title: str) -> int:
    return int(door.connection.get("/api/projects/", title=title)["count"])


def _next_second() -> None:
    time.sleep(1.05)  # marks are whole seconds


def test_a_project_is_made_once_and_found_again(door, title) -> None:
    made = door.ensure_project(title, build_page())
    assert door.ensure_project(title, build_page()).id == made.id
    assert _num_projects(door, title) == 1
    assert door.find_project(title.upper()) is None


def test_the_page_is_renewed_when_ours_changes_but_a_customised_one_is_kept(door, title) -> None:
    first = build_page()
    project = door.ensure_project(title, first)
    customised = first.replace('value="Organ"', 'value="Which organ?"')
    door.connection.write("PATCH", f"/api/projects/{project.id}/", {"label_config": customised})
    assert "Which organ?" in door.ensure_project(title, first).label_config
    newer = first.replace('value="Impression"', 'value="Summary"')
    assert 'value="Summary"' in door.ensure_project(title, newer).label_config


def test_a_project_with_somebody_elses_tasks_is_refused_and_left_alone(door, title) -> None:
    page = '<View><Text name="t" value="$text"/><TextArea name="a" toName="t"/></View>'
    project = door.connection.write("POST", "/api/projects/", {"title": title, "label_config": page})
    door.connection.write("POST", f"/api/projects/{project['id']}/import", [{"data": {"text": "x"}}])
    with pytest.raises(ServiceError, match="not ours; choose another title"):
        door.ensure_project(title, build_page())
    found = door.find_project(title)
    assert found is not None
    assert found.label_config == page


def test_the_image_storage_is_attached_once_and_kept_up_to_date(door, title, stack_s3) -> None:
    project, bucket = door.ensure_project(title, build_page()), stack_s3.bucket()
    keys = load_or_create_keys(stack_s3.folder)
    storage = ImageStorage(
        bucket, "ws/images/", stack_s3.endpoint, "us-east-1", SecretStr(keys.access_key), keys.secret_key
    )
    with pytest.raises(ServiceError, match=f"cannot use s3://{bucket}/ws/images/"):
        door.ensure_storage(project.id, storage)  # nothing is there yet
    stack_s3.client.put_object(Bucket=bucket, Key="ws/images/ab/a.png", Body=b"png")
    assert door.ensure_storage(project.id, storage) == door.ensure_storage(project.id, storage)
    known = door.connection.get("/api/storages/s3/", project=project.id)
    assert [(item["bucket"], item["presign"]) for item in known] == [(bucket, True)]


def test_a_pull_brings_origins_per_field_and_an_edit_comes_with_the_next_pull(
    door, title, case_upload, draft
) -> None:
    project = door.ensure_project(title, build_page())
    cases = [case_upload(f"case-{n}") for n in range(8)]
    upload(door, project.id, cases)
    tasks = list(door.all_tasks(project.id))
    assert [task.data.case_id for task in tasks] == [f"case-{n}" for n in range(8)]  # three pages
    _next_second()
    begin = door.changes(project.id, None).mark

    entities = draft(pick=1).parsed_entities()
    edited = PageContent("Edited.", "Simple cyst.", entities, draft().boxes)
    parent = tasks[5].predictions[0]
    saved = door.create_annotation(
        tasks[5].id,
        corrected_regions(edited, cases[5].prediction["result"]),
        parent_prediction=parent.id,
        lead_time_s=4.5,
    )
    skip = {"result": [], "was_cancelled": True}
    door.connection.write("POST", f"/api/tasks/{tasks[6].id}/annotations/", skip)

    changes = door.changes(project.id, begin)
    found = reviews_of(changes.tasks, KEY)
    (review,) = found.reviews
    assert found.num_cancelled == 1
    assert (review.case_id, review.annotation_id, review.model_version) == ("case-5", saved, "nano/1")
    assert review.lead_time_s == 4.5
    assert review.findings == "Edited."
    assert review.parsed_entities() == entities
    assert review.origins["findings"] == "prediction-changed"
    assert review.origins["impression"] == review.origins["boxes"] == "prediction"
    assert review.origins["shape"] == "prediction-changed"

    _next_second()
    mark = door.changes(project.id, None).mark
    assert list(door.changes(project.id, mark).tasks) == []
    again = PageContent("Edited again.", "Simple cyst.", entities, ())
    door.update_annotation(saved, corrected_regions(again, []))
    (second,) = reviews_of(door.changes(project.id, mark).tasks, KEY).reviews
    assert second.annotation_id == review.annotation_id
    assert second.review_id != review.review_id
    assert second.findings == "Edited again."
    assert second.created_at == review.created_at
    assert second.origins["findings"] == "manual"


def test_the_overlap_repeats_what_lies_just_behind_the_mark(stack_labelstudio, title, case_upload) -> None:
    config = LabelStudioConfig(url=stack_labelstudio.url, overlap_s=600)
    with LabelStudioDoor(config, SecretStr(stack_labelstudio.api_key)) as door:
        project = door.ensure_project(title, build_page())
        upload(door, project.id, [case_upload("case-1")])
        (task,) = door.all_tasks(project.id)
        door.create_annotation(task.id, [], parent_prediction=None)
        _next_second()
        mark = door.changes(project.id, None).mark
        assert [t.id for t in door.changes(project.id, mark).tasks] == [task.id]


def test_annotations_are_counted_by_task_without_being_read(door, title, case_upload) -> None:
    project = door.ensure_project(title, build_page())
    upload(door, project.id, [case_upload(f"case-{n}") for n in range(5)])
    tasks = list(door.all_tasks(project.id))
    for number, task in enumerate(tasks[:4]):
        for _ in range(number):
            door.create_annotation(task.id, [], parent_prediction=None)
    counts = {task.id: task.total_annotations for task in door.annotation_counts(project.id)}
    assert counts == {tasks[1].id: 1, tasks[2].id: 2, tasks[3].id: 3}
    assert door.num_annotations(project.id) == 6


def test_tasks_are_read_by_id_and_those_that_are_gone_are_not_there(door, title, case_upload) -> None:
    project = door.ensure_project(title, build_page())
    upload(door, project.id, [case_upload(f"case-{n}") for n in range(5)])
    ids = [task.id for task in door.all_tasks(project.id)]
    door.connection.write("DELETE", f"/api/tasks/{ids[0]}/")
    assert [task.id for task in door.tasks_by_id(project.id, ids[:4])] == ids[1:4]  # two pages
    assert list(door.tasks_by_id(project.id, [])) == []


def test_tasks_that_are_deleted_between_pages_hide_no_others(door, title, case_upload) -> None:
    project = door.ensure_project(title, build_page())
    upload(door, project.id, [case_upload(f"case-{n}") for n in range(8)])
    walk = door.all_tasks(project.id)
    first = next(walk)  # of a page of three
    door.connection.write("DELETE", f"/api/tasks/{first.id}/")
    assert [task.data.case_id for task in walk] == [f"case-{n}" for n in range(1, 8)]


def test_the_stream_prefills_from_the_version_that_was_chosen(door, title, case_upload) -> None:
    project = door.ensure_project(title, build_page())
    for version in ("nano/1", "nano/2"):
        upload(door, project.id, [case_upload("case-1", version=version)])
    door.use_version(project.id, "nano/2@p1")
    stream = door.connection.get(f"/api/projects/{project.id}/next")
    assert [prediction["model_version"] for prediction in stream["predictions"]] == ["nano/2@p1"]


def test_the_stream_shows_the_least_sure_case_of_the_chosen_version_first(door, title, case_upload) -> None:
    project = door.ensure_project(title, build_page())
    scores = {"case-1": (0.1, 0.9), "case-2": (0.9, 0.2), "case-3": (0.5, 0.6)}
    for place, version in enumerate(("nano/1", "nano/2")):
        cases = [case_upload(case_id, version=version) for case_id in scores]
        scored = [replace(c, prediction={**c.prediction, "score": scores[c.case_id][place]}) for c in cases]
        upload(door, project.id, scored)
    seen = []
    door.use_version(project.id, "nano/2@p1", least_sure_first=True)
    for _ in scores:
        stream = door.connection.get(f"/api/projects/{project.id}/next")
        seen.append(stream["data"]["case_id"])
        door.create_annotation(stream["id"], [], parent_prediction=None)
    assert seen == ["case-2", "case-3", "case-1"]


def test_a_refused_token_is_told_in_one_message(stack_labelstudio) -> None:
    for key in ("wrong.token.here", "0123456789abcdef0123456789abcdef"):
        with (
            LabelStudioDoor(LabelStudioConfig(url=stack_labelstudio.url), SecretStr(key)) as door,
            pytest.raises(ServiceError, match="refuses the key") as caught,
        ):
            door.find_project("any")
        assert key not in str(caught.value)


def test_an_unknown_task_is_told_by_its_address(door) -> None:
    with pytest.raises(ServiceError, match="knows nothing at /api/tasks/999999/annotations/"):
        door.create_annotation(999_999, [], parent_prediction=None)


def test_a_page_with_fewer_fields_is_refused_once_there_are_tasks(door, title, case_upload) -> None:
    project = door.ensure_project(title, build_page())
    narrow = build_page("thyroid")
    assert door.ensure_project(title, narrow).label_config != project.label_config  # nobody loses anything
    door.ensure_project(title, build_page())
    upload(door, project.id, [case_upload("case-1")])
    with pytest.raises(ServiceError, match="fields that the configured one lacks"):
        door.ensure_project(title, narrow)
