"""What holds for every request: keys and limits, headers, an end to bodies, and logs without their text."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from tests.serve.fixed import fixed

from sonoloop.model.chat import ChatResult
from sonoloop.platform.errors import StorageError
from sonoloop.platform.logs import JsonFormatter
from sonoloop.platform.workspace import Store
from sonoloop.serve import keyring
from sonoloop.serve.app import Api
from sonoloop.serve.champion import Event, Question
from sonoloop.serve.config import ServeConfig
from sonoloop.serve.keys import PLACE, Scope, add_key, key_digest, revoke_key

API_KEY = "test-key-0123456789abcdef"
SECRET = "Jane-Doe-1970"
CONFIG = ServeConfig(body_timeout_s=1, max_body_bytes=2000)
COMPLETIONS = "/v1/chat/completions"


async def forty_tokens(_question: Question) -> AsyncGenerator[Event, None]:
    yield ChatResult("a cyst", prompt_tokens=37, completion_tokens=3, finish_reason="stop")


async def failing(_question: Question) -> AsyncGenerator[Event, None]:
    raise RuntimeError(SECRET)
    yield  # makes it a generator


def door(workspace: Store | None, ask: Any = forty_tokens) -> httpx.AsyncClient:
    app = Api(CONFIG, "nano", fixed("nano/1", ask), key_digest(API_KEY), workspace=workspace).app()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def chat(http: httpx.AsyncClient, key: str = API_KEY, text: str = "x") -> httpx.Response:
    body = {"model": "nano", "messages": [{"role": "user", "content": text}]}
    return await http.post(COMPLETIONS, json=body, headers=bearer(key))


def told(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def until_answered(http: httpx.AsyncClient, key: str, status: int) -> None:
    async with asyncio.timeout(60):
        while (await chat(http, key)).status_code != status:
            await asyncio.sleep(0.05)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(keyring, "REFRESH_S", 0.05)
    return Store(str(tmp_path))


def test_a_key_opens_its_scope_only(workspace: Store) -> None:
    _, chat_key = add_key(workspace, "chat", [Scope.CHAT])
    _, drafts_key = add_key(workspace, "drafts", [Scope.DRAFTS])

    async def main() -> None:
        async with door(workspace) as http:
            assert (await chat(http, chat_key)).status_code == 200
            assert told(await chat(http, drafts_key)) == (403, "insufficient_scope")
            assert (await chat(http, API_KEY)).status_code == 200
            assert told(await chat(http, chat_key[:-1])) == (401, "invalid_api_key")
            as_password = base64.b64encode(f"anybody:{chat_key}".encode()).decode()
            models = await http.get("/v1/models", headers={"Authorization": f"Basic {as_password}"})
            assert models.status_code == 200

    asyncio.run(main())


def test_a_running_door_hears_of_new_and_revoked_keys(workspace: Store) -> None:
    async def main() -> None:
        async with door(workspace) as http:
            assert told(await chat(http, "slk-unknown")) == (401, "invalid_api_key")
            _, key = add_key(workspace, "late", [Scope.CHAT])
            await until_answered(http, key, 200)
            revoke_key(workspace, "late")
            await until_answered(http, key, 401)

    asyncio.run(main())


def test_a_workspace_that_is_away_is_borne_for_a_while_and_then_nobody_but_the_environment_gets_in(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = add_key(workspace, "one", [Scope.CHAT])

    def away(_workspace: Store) -> None:
        raise StorageError("no answer")

    async def main() -> None:
        async with door(workspace) as http:
            assert (await chat(http, key)).status_code == 200
            monkeypatch.setattr(keyring, "read_keys", away)
            await asyncio.sleep(0.1)
            assert (await chat(http, key)).status_code == 200
            monkeypatch.setattr(keyring, "KEPT_S", 0.0)
            assert told(await chat(http, key)) == (503, "keys_unavailable")
            assert (await chat(http, API_KEY)).status_code == 200

    asyncio.run(main())


def test_a_broken_list_of_keys_opens_nothing(workspace: Store) -> None:
    workspace.put_control(b"{}", *PLACE, version=None)

    async def main() -> None:
        async with door(workspace) as http:
            assert told(await chat(http, "slk-any")) == (503, "keys_unavailable")

    asyncio.run(main())


def test_limits_are_each_keys_own_and_told_in_openais_headers(workspace: Store) -> None:
    _, few = add_key(workspace, "few", [Scope.CHAT], requests_per_minute=2)
    _, dear = add_key(workspace, "dear", [Scope.CHAT], tokens_per_minute=30)

    async def main() -> None:
        async with door(workspace) as http:
            answers = [await chat(http, few) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
            assert told(answers[-1]) == (429, "rate_limit_exceeded")
            assert 29 <= int(answers[-1].headers["retry-after"]) <= 30
            assert [(await chat(http, dear)).status_code for _ in range(2)] == [200, 429]
            free = await chat(http)
            assert free.status_code == 200
            assert not [name for name in free.headers if name.startswith("x-ratelimit")]

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nothing", COMPLETIONS])
def test_every_answer_tells_a_browser_to_keep_to_itself(path: str) -> None:
    async def main() -> httpx.Response:
        async with door(None) as http:
            return await http.get(path)

    headers = asyncio.run(main()).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_a_body_that_drips_is_given_up_in_time() -> None:
    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    async def main() -> httpx.Response:
        async with door(None) as http:
            asked = http.post(COMPLETIONS, content=drops(), headers=bearer(API_KEY))
            return await asyncio.wait_for(asked, 60)

    assert told(asyncio.run(main())) == (408, "body_timeout")


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_a_body_that_would_have_to_be_unpacked_is_refused(encoding: str) -> None:
    async def main() -> httpx.Response:
        async with door(None) as http:
            headers = {**bearer(API_KEY), "Content-Encoding": encoding}
            return await http.post(COMPLETIONS, content=b"{}", headers=headers)

    assert told(asyncio.run(main())) == (415, "unsupported_encoding")


def test_json_of_too_many_values_is_refused_before_it_is_parsed() -> None:
    async def main() -> list[httpx.Response]:
        app = Api(
            ServeConfig(max_json_values=1000), "nano", fixed("nano/1", forty_tokens), key_digest(API_KEY)
        ).app()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as http:
            bodies = (b"  [" + b"[]," * 1000, b'{"text": "' + b"," * 1000, b" " + b"x," * 1000)
            return [await http.post(COMPLETIONS, content=body, headers=bearer(API_KEY)) for body in bodies]

    many, in_text, no_json = asyncio.run(main())
    assert told(many) == told(in_text) == (400, "too_many_values")
    assert told(no_json)[1] != "too_many_values"


@pytest.mark.parametrize("length", ["2001", "9" * 30])
def test_a_body_that_says_it_is_too_large_is_not_read(length: str) -> None:
    async def main() -> httpx.Response:
        async with door(None) as http:
            headers = {**bearer(API_KEY), "Content-Length": length}
            return await http.post(COMPLETIONS, content=b"{}", headers=headers)

    assert told(asyncio.run(main())) == (413, "body_too_large")


def test_logs_hold_the_route_and_the_keys_name_and_nothing_that_was_sent(
    workspace: Store, caplog: pytest.LogCaptureFixture
) -> None:
    _, key = add_key(workspace, "ward-3", [Scope.CHAT])

    async def main() -> None:
        for ask in (forty_tokens, failing):
            async with door(workspace, ask) as http:
                await chat(http, key, SECRET)
                await http.get(f"/{SECRET}?name={SECRET}", headers={SECRET: SECRET})
                await http.request(SECRET.upper(), "/healthz")
                await chat(http, SECRET)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("sonoloop")]
    lines = [line for line in ours if "status" in line]
    assert f"key ward-3, POST {COMPLETIONS}, status 200" in lines[0]
    assert "key -, GET no route, status 404" in lines[1]
    assert "key -, other /healthz, status 405" in lines[2]
    assert f"key -, POST {COMPLETIONS}, status 401" in lines[3]
    assert any("RuntimeError" in line for line in ours)
    assert not [line for line in ours if SECRET.lower() in line.lower() or key in line]


def test_each_line_of_a_request_names_it_and_no_line_of_another(caplog: pytest.LogCaptureFixture) -> None:
    written: list[dict[str, Any]] = []

    class Writes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(json.loads(JsonFormatter().format(record)))

    async def slowly() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with door(None) as http, door(None, failing) as broken:
            asked = {"json": {"model": "nano", "messages": [{"role": "user", "content": "x"}]}}
            named = {name: {"x-request-id": name, **bearer(API_KEY)} for name in ("a", "f", "t")}
            answers = await asyncio.gather(
                http.post(COMPLETIONS, headers=named["a"], **asked),
                broken.post(COMPLETIONS, headers=named["f"], **asked),
                http.post(COMPLETIONS, headers=named["t"], content=slowly()),
            )
            assert [answer.status_code for answer in answers] == [200, 500, 408]

    ours = logging.getLogger("sonoloop.serve")
    handler = Writes()
    ours.addHandler(handler)
    with caplog.at_level(logging.INFO, "sonoloop.serve"):
        asyncio.run(main())
    ours.removeHandler(handler)
    lines = [(line["request_id"], line["message"].split(" ")[0]) for line in written]
    assert sorted(lines) == [
        ("a", "answered:"),
        ("a", "request"),
        ("f", "request"),
        ("f", "request"),
        ("t", "request"),
    ]


def test_a_door_that_others_can_reach_wants_tls_or_a_word() -> None:
    assert ServeConfig(host="::1").is_local
    assert ServeConfig(host="localhost").is_local
    for host in ("0.0.0.0", "::", "10.0.0.1", "some.host"):
        with pytest.raises(ValidationError, match="plain_http"):
            ServeConfig(host=host)
        assert not ServeConfig(host=host, plain_http=True).is_local
        ServeConfig(host=host, tls_certificate="c.pem", tls_key="k.pem")
    with pytest.raises(ValidationError, match="one of them is missing"):
        ServeConfig(tls_key="k.pem")


def test_bodies_together_have_a_largest_size_and_make_room_when_they_are_answered() -> None:
    """Four are read at once and two fit; the two that are refused take nothing with them."""
    let_on = asyncio.Event()

    async def dripping(body: bytes) -> AsyncIterator[bytes]:
        yield body[:-1]
        await let_on.wait()
        yield body[-1:]

    async def main() -> None:
        config = ServeConfig(max_body_bytes=2000, max_held_bytes=2500)
        app = Api(config, "nano", fixed("nano/1", forty_tokens), key_digest(API_KEY)).app()
        content = json.dumps({"model": "nano", "messages": [{"role": "user", "content": "x" * 900}]}).encode()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as http:
            asked = [
                asyncio.create_task(
                    http.post(COMPLETIONS, content=dripping(content), headers=bearer(API_KEY))
                )
                for _ in range(4)
            ]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            let_on.set()
            answers = await asyncio.gather(*asked)
            assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
            refused = next(answer for answer in answers if answer.status_code == 429)
            assert (told(refused), refused.headers["retry-after"]) == ((429, "overloaded"), "1")
            for _ in range(3):
                assert (await chat(http)).status_code == 200

    asyncio.run(main())
