"""The whole service on Ray Serve, asked with the public ``openai`` client."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from served.conftest import CONFIG
from served.door import API_KEY, Door

pytestmark = pytest.mark.ray

MAX_BODY_BYTES = CONFIG.max_body_bytes
QUESTION: list[Any] = [{"role": "user", "content": "describe it"}]


@pytest.fixture(scope="module")
def url(served_to_all: Door) -> str:
    return served_to_all.url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key=API_KEY, max_retries=0, timeout=120, http_client=http
    ) as it:
        yield it


def post(url: str, key: str | None = API_KEY, **fields: Any) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    body = {"model": "untrained", "messages": QUESTION, "max_tokens": 4, **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120, trust_env=False)


def error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


def with_image(url: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "describe it"}]
    return [{"role": "user", "content": parts}]


def test_the_answer_names_the_model_version_and_counts_its_tokens(
    client: openai.OpenAI, served_to_all: Door
) -> None:
    answer = client.chat.completions.create(
        model="untrained", messages=QUESTION, max_tokens=20, temperature=0
    )
    assert answer.model == served_to_all.version
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20


def test_the_listed_model_can_be_asked(client: openai.OpenAI, served_to_all: Door) -> None:
    (listed,) = client.models.list().data
    assert listed.id == served_to_all.version
    answer = client.chat.completions.create(model=listed.id, messages=QUESTION, max_tokens=4)
    assert answer.model == listed.id
    assert client.models.retrieve(listed.id) == listed  # its name has a slash


def test_an_upload_can_be_asked_about_until_it_is_deleted(
    client: openai.OpenAI, picture: Callable[..., bytes]
) -> None:
    file = client.files.create(file=("Jane-Doe-1970.png", picture(size=(112, 84))), purpose="vision")

    def ask() -> Any:
        asked = with_image(file.id)
        return client.chat.completions.create(model="untrained", messages=asked, max_tokens=4, logprobs=True)

    assert len(ask().choices[0].logprobs.content) == 4
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        ask()


def test_streamed_pieces_make_the_same_text(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "untrained", "messages": QUESTION, "max_tokens": 120, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 2
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_an_image_changes_the_prompt_and_the_answer(
    client: openai.OpenAI, picture: Callable[..., bytes], data_uri: Callable[[bytes], str]
) -> None:
    def ask(seed: int) -> tuple[str | None, int]:
        image = data_uri(picture(size=(112, 84), seed=seed))
        answer = client.chat.completions.create(
            model="untrained", messages=with_image(image), max_tokens=30, temperature=0
        )
        assert answer.usage is not None
        return answer.choices[0].message.content, answer.usage.prompt_tokens

    text_only = client.chat.completions.create(model="untrained", messages=QUESTION, max_tokens=1)
    first, second = ask(0), ask(1)
    assert text_only.usage is not None
    assert first[1] == second[1] >= text_only.usage.prompt_tokens + 12  # 112 x 84 pixels are 4 x 3 tokens
    assert first[0] != second[0]


def test_a_seed_makes_drawn_answers_repeat(client: openai.OpenAI) -> None:
    def ask(seed: int | None) -> str | None:
        answer = client.chat.completions.create(
            model="untrained", messages=QUESTION, max_tokens=30, temperature=1.5, seed=seed
        )
        return answer.choices[0].message.content

    assert ask(3) == ask(3) != ask(4)
    assert ask(None) != ask(None)


@pytest.mark.parametrize("key", [None, "", "wrong", API_KEY[:-1], API_KEY + "x", "schlüssel"])
def test_without_the_right_key_nothing_is_answered(url: str, key: str | None) -> None:
    headers = [] if key is None else [(b"Authorization", f"Bearer {key}".strip().encode())]
    for method, path in (("POST", "chat/completions"), ("GET", "models")):
        response = httpx.request(method, f"{url}/v1/{path}", headers=headers, trust_env=False)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert error(response)["code"] == "invalid_api_key"


def test_the_openai_client_sees_a_wrong_key_as_its_own_error(url: str) -> None:
    http = openai.DefaultHttpxClient(trust_env=False)
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0, http_client=http) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_health_needs_no_key(url: str) -> None:
    response = httpx.get(f"{url}/healthz", timeout=60, trust_env=False)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_the_page_is_at_the_root(url: str) -> None:
    page = httpx.get(url, timeout=60, trust_env=False)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_an_image_address_is_refused_and_not_fetched(url: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/image.png"
        response = post(url, messages=with_image(address))
        listener.settimeout(0.5)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert response.status_code == 400
    assert "data:image/png;base64" in error(response)["message"]


def test_too_many_images_are_refused(
    url: str, picture: Callable[..., bytes], data_uri: Callable[[bytes], str]
) -> None:
    response = post(url, messages=with_image(data_uri(picture())) * 3)
    assert (response.status_code, error(response)["code"]) == (400, "too_many_images")


def test_a_body_over_the_limit_is_refused_with_and_without_a_stated_length(url: str) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}

    def pieces() -> Iterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 100_000 + 1):
            yield b" " * 100_000

    for content in (b" " * (MAX_BODY_BYTES + 1), pieces()):
        response = httpx.post(
            f"{url}/v1/chat/completions", content=content, headers=headers, timeout=60, trust_env=False
        )
        assert (response.status_code, error(response)["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "gpt-9"}, 404, "model_not_found"),
        ({"temperature": 3}, 400, "invalid_value"),
        ({"max_tokens": 901}, 400, "invalid_value"),
        ({"tools": []}, 400, "unsupported_parameter"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": "<|image_pad|>"}]}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": "echo " * 20_000}]}, 400, "context_length_exceeded"),
    ],
)
def test_a_bad_request_gets_its_status_streamed_or_not(
    url: str, fields: dict[str, Any], status: int, code: str, stream: bool
) -> None:
    response = post(url, **fields, stream=stream)
    assert (response.status_code, error(response)["code"]) == (status, code)


def test_an_unknown_path_is_told_in_the_same_form(url: str) -> None:
    response = httpx.get(f"{url}/v1/embeddings", timeout=60, trust_env=False)
    assert (response.status_code, error(response)["code"]) == (404, "unknown_route")
    wrong_method = httpx.get(f"{url}/v1/chat/completions", timeout=60, trust_env=False)
    assert (wrong_method.status_code, error(wrong_method)["code"]) == (405, "unknown_route")


def test_when_all_places_are_taken_askers_are_sent_away_until_somebody_hangs_up(url: str) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    body = {"model": "untrained", "messages": QUESTION, "max_tokens": 900, "stream": True}
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120, trust_env=False
    ) as response:
        lines = response.iter_lines()  # kept: httpx hangs up when this is dropped
        assert next(lines).startswith("data:")
        refused = post(url)
        assert httpx.get(f"{url}/healthz", timeout=60, trust_env=False).status_code == 200
    assert (refused.status_code, error(refused)["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert _until(lambda: post(url, max_tokens=1), 200).json()["usage"]["completion_tokens"] == 1


def _until(ask: Callable[[], httpx.Response], status: int) -> httpx.Response:
    deadline = time.monotonic() + 300
    while (response := ask()).status_code != status:
        assert time.monotonic() < deadline, f"still {response.status_code}"
        time.sleep(0.05)
    return response


def test_no_log_holds_what_was_asked_or_answered(url: str, served_to_all: Door) -> None:
    marker = "Jane-Doe-1970"
    for fields in (
        {"messages": [{"role": "user", "content": marker}]},
        {"messages": [{"role": "user", "content": marker + "<|image_pad|>"}]},
        {"messages": [{"role": marker, "content": marker}]},
        {"temperature": marker},
        {"messages": with_image(f"http://127.0.0.1/{marker}.png")},
    ):
        post(url, **fields)
    answer = post(url, max_tokens=60).json()["choices"][0]["message"]["content"]
    _until(lambda: httpx.get(f"{url}/healthz", timeout=60, trust_env=False), 200)
    written = b"".join(path.read_bytes() for path in served_to_all.logs.rglob("*") if path.is_file())
    assert b"/v1/chat/completions" in written, "the service's log was not found"
    assert marker.encode() not in written
    assert answer.encode()[:20] not in written
    assert json.dumps(answer)[1:20].encode() not in written
    assert API_KEY.encode() not in written


def test_a_replica_logs_an_answer_as_one_object_that_names_the_request_of_its_head(
    url: str, served_to_all: Door
) -> None:
    request_id = post(url, max_tokens=3).headers["x-request-id"]

    def lines() -> list[dict[str, Any]]:
        files = served_to_all.logs.glob("worker-*.err")
        written = [line for path in files for line in path.read_text().splitlines()]
        named = [line for line in written if request_id in line]
        return [json.loads(line) for line in named if " -- " not in line]  # those are Ray's own

    deadline = time.monotonic() + 300
    while len(found := lines()) < 2:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert {line["request_id"] for line in found} == {request_id}
    assert {line["logger"] for line in found} == {"sonoloop.serve.app", "sonoloop.serve.guard"}
    assert any(re.fullmatch(r"answered: \d+ \+ 3 tokens, .* s", line["message"]) for line in found)


def test_a_killed_replica_costs_its_answers_only(url: str) -> None:
    import ray

    headers = {"Authorization": f"Bearer {API_KEY}"}
    body = {"model": "untrained", "messages": QUESTION, "max_tokens": 900, "stream": True}
    events: list[str] = []
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120, trust_env=False
    ) as response:
        for line in response.iter_lines():
            if not events:
                _kill_champion(ray)
            events += [line.removeprefix("data: ")] if line else []
    assert json.loads(events[-1])["error"]["code"] == "replica_lost"
    assert _until(lambda: post(url, max_tokens=1), 200).status_code == 200


def _kill_champion(ray: Any) -> None:
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if "#Champion#" in actor["name"]:
            ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
