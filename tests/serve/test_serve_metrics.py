"""What the door counts arrives on Ray's endpoint under the names of the inventory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
import ray
from test_door import API_KEY, CONFIG, SECRET
from tests.scraping import scraped
from tests.serve.fixed import fixed

from sonoloop.model.chat import ChatOptions, ChatPiece, ChatResult
from sonoloop.platform.errors import Reason
from sonoloop.platform.metrics import INVENTORY
from sonoloop.platform.records import DraftRecord
from sonoloop.serve.app import Api
from sonoloop.serve.champion import Event, Question, Refusal
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.drafts.case import CaseEvent, DraftCase, DraftedCase
from sonoloop.serve.drafts.routes import Drafts
from sonoloop.serve.keys import key_digest
from sonoloop.serve.metrics import MAX_CODES, CountRequests, DoorMetrics, ReplicaMetrics, RollingMetrics


async def answer(_question: Question) -> AsyncGenerator[Event, None]:
    await asyncio.sleep(0.02)
    yield ChatPiece("the liver ")
    yield ChatPiece("is normal")
    yield ChatResult("the liver is normal", 40, 4, "stop")


def draft(status: str, reason: Reason | None = None) -> DraftRecord:
    return DraftRecord(
        case_id="c", run_id="r", model_version="m/1", prompt_version="p", config_hash="h", status=status,
        reason=reason,
    )  # fmt: skip


async def refuse(_question: Question) -> AsyncGenerator[Event, None]:
    yield Refusal(Reason.MODEL_FAILED, "no")


async def write(_case: DraftCase) -> AsyncGenerator[CaseEvent, None]:
    yield "the liver "
    yield DraftedCase(draft("draft"))


async def work(door: DoorMetrics, folder: Path) -> None:
    """Questions: two answered, one that fails in the model, one with a wrong key, one to nowhere. Then a
    study that finds no place, one that is drafted, drafts for Label Studio, and another model while a
    question is being answered.
    """
    kinds = iter([answer, answer, refuse])
    settings = ServeSettings(workspace=str(folder), serve=CONFIG)
    app = Api(
        CONFIG,
        "nano",
        fixed("m/1", lambda question: door.watched(next(kinds)(question), "m/1")),
        key_digest(API_KEY),
        [Drafts(settings, write).router],
    ).app()
    app.add_middleware(CountRequests, door=door)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    body = {"model": "nano", "messages": [{"role": "user", "content": SECRET}]}
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as http:
        key = {"Authorization": f"Bearer {API_KEY}"}
        for stream in (False, True):
            done = await http.post("/v1/chat/completions", json={**body, "stream": stream}, headers=key)
            assert done.status_code == 200
        assert (await http.post("/v1/chat/completions", json=body, headers=key)).status_code == 500
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 401
        with app.state.line.place():
            study = await http.post("/v1/drafts", json={"files": [SECRET]}, headers=key)
            assert study.status_code == 429
        assert (await http.get(f"/{SECRET}")).status_code == 404
    door.drafted([draft("draft"), draft("rejected", Reason.IMAGE_MISSING)], "labelstudio")
    piece, _ = [event async for event in door.drafting(write(DraftCase("c", None, ())))]
    assert piece == "the liver "
    late = door.watched(answer(Question([], ChatOptions())), "m/1")
    assert await anext(late) == ChatPiece("the liver ")
    door.changed("m/2")
    assert len([event async for event in late]) == 2


def value(text: str, name: str, **labels: str) -> float:
    """The one value of a series of this process; our labels, whatever else Ray adds."""
    labels["WorkerId"] = ray.get_runtime_context().get_worker_id()
    found = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(f"{name}{{") and all(f'{key}="{word}"' in line for key, word in labels.items())
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


@pytest.mark.ray
def test_a_few_requests_are_counted_under_the_names_of_the_inventory(
    ray_cluster: str, tmp_path: Path
) -> None:
    door, replica = DoorMetrics("m/1"), ReplicaMetrics()
    asyncio.run(work(door, tmp_path))
    replica.load(3, 2)
    RollingMetrics().failed("m/3")
    text = scraped("serve_failed_changes_total{", "serve_waiting_requests{", "serve_drafts_total{")
    served = set(re.findall(r"^# TYPE ray_(sonoloop_serve_\w+)", text, re.MULTILINE))
    assert served == {one.name for one in INVENTORY if one.room == "serve"}
    serve = "ray_sonoloop_serve"
    chat = "/v1/chat/completions"
    assert value(text, f"{serve}_requests_total", route=chat, status="200") == 2
    assert value(text, f"{serve}_requests_total", route=chat, status="401") == 1
    assert value(text, f"{serve}_requests_total", route="other", status="404") == 1
    assert value(text, f"{serve}_refused_requests_total", code="invalid_api_key") == 1
    assert value(text, f"{serve}_requests_total", route="/v1/drafts", status="429") == 1
    assert value(text, f"{serve}_limited_requests_total", code="overloaded") == 1
    assert value(text, f"{serve}_first_token_seconds_count") == 3  # a refusal is no token
    assert value(text, f"{serve}_tokens_total", kind="completion", model_version="m/1") == 12
    assert value(text, f"{serve}_open_requests") == 0
    assert value(text, f"{serve}_running_rows") == 3
    assert value(text, f"{serve}_version_info", model_version="m/1") == 0
    assert value(text, f"{serve}_version_info", model_version="m/2") == 1
    assert value(text, f"{serve}_failed_changes_total", model_version="m/3") == 1
    assert value(text, f"{serve}_drafts_total", status="rejected", reason="image-missing") == 1
    assert value(text, f"{serve}_drafts_total", source="api", status="draft") == 1
    assert "Jane" not in text


def test_codes_that_callers_could_make_up_do_not_become_labels_without_end(ray_cluster: str) -> None:
    door = DoorMetrics("m/1")
    known = [door._known(f"code_{chr(97 + n % 26)}{chr(97 + n // 26)}") for n in range(2 * MAX_CODES)]
    assert len(set(known)) == MAX_CODES + 1
    assert door._known("Jane Doe") == "other"
