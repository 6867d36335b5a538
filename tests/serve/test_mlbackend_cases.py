"""What a task must look like to be drafted: nothing but the workspace's own images is ever read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sonoloop.serve.labelstudio.cases import TaskRefusedError, case_of
from sonoloop.serve.labelstudio.protocol import PredictRequest
from sonoloop.serve.protocol import ApiError

WORKSPACE = "s3://bucket/ws"
KEY = f"images/ab/{'0' * 64}.png"


def data(*images: Any, **changes: Any) -> dict[str, Any]:
    return {"case_id": "c", "images": list(images), "organ_hint": "breast", "scanner": "x", **changes}


def test_images_come_as_workspace_keys_in_their_order() -> None:
    other = KEY.replace("0", "1")
    case = case_of(data(f"{WORKSPACE}/{other}", f"{WORKSPACE}/{KEY}"), WORKSPACE)
    assert (case.case_id, case.organ_hint, case.images) == ("c", "breast", (other, KEY))
    assert case_of(data(f"{WORKSPACE}/{KEY}", organ_hint="not known"), f"{WORKSPACE}/").organ_hint is None


@pytest.mark.parametrize(
    "address",
    [
        f"http://169.254.169.254/{KEY}",
        f"https://bucket/ws/{KEY}",
        f"s3://other/ws/{KEY}",
        f"s3://bucket/wsx/{KEY}",
        f"s3://bucket/{KEY}",
        f"{WORKSPACE}/reviews/../{KEY}",
        f"{WORKSPACE}/images/../reviews/a.png",
        f"{WORKSPACE}/images/ab/../../{KEY}",
        f"{WORKSPACE}/{KEY}?x=1",
        f"{WORKSPACE}/{KEY}\n",
        f"{WORKSPACE}/{KEY.replace('.png', '.parquet')}",
        f"{WORKSPACE}/{KEY.upper()}",
        f"file:///{KEY}",
        KEY,
        f"/{KEY}",
        "",
        None,
        7,
        {"url": f"{WORKSPACE}/{KEY}"},
    ],
)
def test_an_image_anywhere_else_refuses_the_task_even_beside_good_ones(address: Any) -> None:
    with pytest.raises(TaskRefusedError) as caught:
        case_of(data(f"{WORKSPACE}/{KEY}", address), WORKSPACE)
    assert caught.value.status == "foreign-image"


@pytest.mark.parametrize(
    "changes", [{"case_id": None}, {"case_id": ""}, {"case_id": 3}, {"images": []}, {"images": "s3://b/k"}]
)
def test_a_task_that_is_none_of_ours_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TaskRefusedError) as caught:
        case_of(data(f"{WORKSPACE}/{KEY}", **changes), WORKSPACE)
    assert caught.value.status == "not-a-case"


def test_a_request_tells_its_project_and_whether_the_page_asks() -> None:
    body = {
        "tasks": [{"id": 3, "data": {}, "predictions": []}],
        "project": "12.1764000000",
        "label_config": "",
    }
    asked = PredictRequest.parse(json.dumps({**body, "params": {"login": None, "context": None}}).encode())
    assert (asked.project_id, [task.id for task in asked.tasks], asked.is_interactive) == (12, [3], False)
    assert PredictRequest.parse(json.dumps({**body, "params": {"context": {}}}).encode()).is_interactive


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"project": "x", "tasks": []}'])
def test_a_request_that_cannot_be_read_is_refused_without_its_text(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        PredictRequest.parse(body)
    assert caught.value.status == 400
    secret = json.dumps({"project": "1", "tasks": [{"id": "Jane Doe", "data": {}}]}).encode()
    with pytest.raises(ApiError, match=r"tasks\.0\.id") as caught:
        PredictRequest.parse(secret)
    assert "Jane" not in caught.value.message
