"""Uploads at the door: whose they are, how many, how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.serve.doors import API_KEY
from tests.serve.fixed import fixed

from sonoloop.platform.workspace import Store
from sonoloop.serve.app import Api
from sonoloop.serve.champion import Event, Question
from sonoloop.serve.config import ServeConfig, UploadsConfig
from sonoloop.serve.keys import Scope, add_key, key_digest
from sonoloop.serve.protocol import ApiError
from sonoloop.serve.uploads import Uploads

SMALL, LARGE = Image.new("RGB", (64, 64)), Image.new("RGB", (128, 128))
NUM_BYTES = 3 * 64 * 64


async def no_answer(_question: Question) -> AsyncGenerator[Event, None]:
    raise AssertionError("nothing is asked in here")
    yield  # makes it a generator


@pytest.fixture
def door(tmp_path: Path) -> tuple[TestClient, Store]:
    workspace = Store(str(tmp_path))
    config = ServeConfig(max_body_bytes=100_000)
    api = Api(config, "nano", fixed("nano/1", no_answer), key_digest(API_KEY), workspace=workspace)
    return TestClient(api.app()), workspace


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_one_key_cannot_see_use_or_delete_anothers_upload(
    door: tuple[TestClient, Store], picture: Callable[..., bytes]
) -> None:
    http, workspace = door
    with http:
        _, stranger = add_key(workspace, "stranger", [Scope.CHAT])
        sent = {"files": {"file": picture()}, "data": {"purpose": "vision"}}
        made = http.post("/v1/files", headers=bearer(API_KEY), **sent)  # type: ignore[arg-type]
        assert made.status_code == 200
        place = f"/v1/files/{made.json()['id']}"
        assert http.get("/v1/files", headers=bearer(stranger)).json()["data"] == []
        assert http.get(place, headers=bearer(stranger)).status_code == 404
        assert http.delete(place, headers=bearer(stranger)).status_code == 404
        part = {"type": "image_url", "image_url": {"url": made.json()["id"]}}
        body = {"model": "nano", "messages": [{"role": "user", "content": [part]}]}
        refused = http.post("/v1/chat/completions", json=body, headers=bearer(stranger))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "file_not_found")
        assert http.get(place, headers=bearer(API_KEY)).status_code == 200


def test_a_key_for_drafts_alone_uploads_nothing(
    door: tuple[TestClient, Store], picture: Callable[..., bytes]
) -> None:
    http, workspace = door
    _, key = add_key(workspace, "reader", [Scope.DRAFTS])
    sent = {"files": {"file": picture()}, "data": {"purpose": "vision"}}
    assert http.post("/v1/files", headers=bearer(key), **sent).status_code == 403  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nJane: Doe\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"\x00\xff--x--" * 100),
        ("multipart/form-data; boundary=" + "x" * 300, b"--" + b"x" * 300 + b"--\r\n"),
    ],
)
def test_a_form_that_is_none_is_a_bad_request(
    door: tuple[TestClient, Store], content_type: str, body: bytes
) -> None:
    headers = {**bearer(API_KEY), "Content-Type": content_type}
    response = door[0].post("/v1/files", content=body, headers=headers)
    assert response.status_code == 400
    assert "Jane" not in response.text


def test_a_field_that_has_no_effect_is_refused_by_name(
    door: tuple[TestClient, Store], picture: Callable[..., bytes]
) -> None:
    data = {"purpose": "vision", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    response = door[0].post("/v1/files", files={"file": picture()}, data=data, headers=bearer(API_KEY))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "expires_after"


def test_nothing_is_left_of_an_upload_after_its_time() -> None:
    async def main() -> None:
        uploads = Uploads(UploadsConfig(keep_s=1))
        kept = uploads.put("one", SMALL, 1)
        assert uploads.picture("one", kept.id) is SMALL
        await asyncio.sleep(1.5)
        assert uploads.picture("one", kept.id) is None
        assert uploads.of("one") == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("config", "owners", "picture"),
    [
        (UploadsConfig(max_files=2), ("one", "one"), SMALL),
        (UploadsConfig(max_bytes=5 * NUM_BYTES), ("one", "one"), LARGE),
        (UploadsConfig(max_bytes=5 * NUM_BYTES, max_total_bytes=5 * NUM_BYTES), ("one", "two"), LARGE),
    ],
)
def test_a_full_store_takes_nothing_more_until_something_goes(
    config: UploadsConfig, owners: tuple[str, str], picture: Image.Image
) -> None:
    async def main() -> None:
        uploads = Uploads(config)
        first = uploads.put(owners[0], SMALL, 1)
        second = uploads.put(owners[1], SMALL, 1)
        with pytest.raises(ApiError) as caught:
            uploads.put("one", picture, 1)
        assert caught.value.status == HTTPStatus.TOO_MANY_REQUESTS
        assert 3500 < (caught.value.retry_after_s or 0) <= 3600
        uploads.delete(owners[0], first.id)
        uploads.delete(owners[1], second.id)
        uploads.put("one", picture, 1)

    asyncio.run(main())
