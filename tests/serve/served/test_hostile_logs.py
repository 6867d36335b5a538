"""Names of patients in every place of a request, and none of them in any log."""

from __future__ import annotations

import base64
import json
import time

import pytest

from served.door import AUTH, COMPLETIONS, Door

pytestmark = pytest.mark.ray
PLACES = ("path", "query", "header", "header-name", "request-id", "session", "model", "text", "role", "field")
MORE_PLACES = ("temperature", "address", "file", "dicom", "schema", "broken", "key", "user", "form", "method")


def mark(place: str) -> str:
    """A patient's name, another for each place."""
    return f"Zimmermann{place.replace('-', '').capitalize()}1970"


def chat(**fields: object) -> bytes:
    asked = {"model": "untrained", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    return json.dumps(asked | fields).encode()


def with_address(url: str) -> list[object]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_no_log_names_what_was_sent(door: Door) -> None:
    name = {place: mark(place) for place in PLACES + MORE_PLACES}
    head = f"GET /{name['path']}?name={name['query']} HTTP/1.1\r\nHost: x\r\n{AUTH}"
    head += (
        f"X-Patient: {name['header']}\r\n{name['header-name']}: x\r\nX-Request-Id: {name['request-id']}\r\n"
    )
    assert b" 404 " in door.raw(f"{head}X-Session-Id: {name['session']}\r\n\r\n".encode())
    door.raw(f"{name['method'].upper()} /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answered = door.post(chat(messages=[{"role": "user", "content": name["text"]}], user=name["user"]))
    assert answered.status_code == 200
    said = chat(messages=[{"role": "user", "content": name["text"] + "<|image_pad|>"}])
    dicom = base64.b64encode(bytes(128) + b"DICM" + name["dicom"].encode()).decode()
    refused = (
        said,
        chat(model=name["model"]),
        chat(messages=[{"role": name["role"], "content": "x"}]),
        chat(**{name["field"]: 1}),
        chat(temperature=name["temperature"]),
        chat(messages=with_address(f"http://127.0.0.1:1/{name['address']}.png")),
        chat(messages=with_address(f"data:{name['file']};base64,{dicom}")),
        chat(response_format={"type": "json_schema", "json_schema": {"name": name["schema"], "schema": 1}}),
        name["broken"].encode(),
    )
    for body in refused:
        assert 400 <= door.post(body).status_code < 500
    form = f'--b\r\nContent-Disposition: form-data; name="f"; filename="{name["form"]}"\r\n\r\n\r\n--b--'
    for path in (COMPLETIONS, "/v1/files", "/v1/drafts", "/predict", "/webhook"):
        door.post(form.encode(), path, **{"Content-Type": f"multipart/form-data; boundary=b; {name['form']}"})
    assert door.post(chat(), Authorization=f"Bearer {name['key']}").status_code == 401
    time.sleep(0.5)  # the last lines on their way to the files
    written = b"".join(path.read_bytes() for path in door.logs.rglob("*") if path.is_file()).lower()
    assert COMPLETIONS.encode() in written, "the service's log was not found"
    assert [place for place, text in name.items() if text.lower().encode() in written] == []


@pytest.mark.parametrize("sent", [None, "Jane-Doe-1970"])
def test_an_answer_names_its_request_as_the_log_does(door: Door, sent: str | None) -> None:
    headers = {} if sent is None else {"X-Request-Id": sent}
    answer = door.post(chat(), COMPLETIONS, **headers)
    (request_id,) = answer.headers.get_list("x-request-id")
    assert request_id != sent
    deadline = time.monotonic() + 300
    while not _is_logged(door, COMPLETIONS.encode(), request_id.encode()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_logged(door: Door, *words: bytes) -> bool:
    """Whether one line of a log has all of them."""
    files = [path for path in door.logs.rglob("*") if path.is_file()]
    return any(
        all(word in line for word in words) for path in files for line in path.read_bytes().splitlines()
    )
