"""Askers of a served model, and what they were told: waits, tokens, refusals, failures."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np
from PIL import Image

MAX_TOKENS = 48
TIMEOUT_S = 300.0
_SEEDS = itertools.count()


@dataclass(frozen=True)
class Told:
    """One request's end.

    Attributes:
        status: HTTP status; 0 where the connection broke or the stream ended with an error.
        first_s: Seconds until the first piece of text.
        total_s: Seconds until the end.
        tokens: Tokens of the answer.
        model: The version that answered.
        retry_after_s: What a refusal said.
    """

    status: int
    total_s: float
    first_s: float = 0.0
    tokens: int = 0
    model: str = ""
    retry_after_s: int = 0


@dataclass
class Asker:
    """A client of one service."""

    url: str
    key: str
    http: httpx.AsyncClient = field(init=False)

    async def __aenter__(self) -> Asker:
        limits = httpx.Limits(max_connections=None)
        headers = {"Authorization": f"Bearer {self.key}"}
        self.http = httpx.AsyncClient(headers=headers, limits=limits, timeout=TIMEOUT_S, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def ask(self) -> Told:
        """One question about an image of its own, streamed."""
        begin = time.perf_counter()
        try:
            async with self.http.stream(
                "POST", f"{self.url}/v1/chat/completions", json=question(next(_SEEDS))
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    wait_s = int(response.headers.get("retry-after", 0))
                    return Told(response.status_code, time.perf_counter() - begin, retry_after_s=wait_s)
                return await _read(response, begin)
        except httpx.HTTPError:
            return Told(0, time.perf_counter() - begin)

    async def in_turn(self, clients: int, seconds: float) -> list[Told]:
        """So many clients, each of which asks again as soon as it was answered."""
        until = time.perf_counter() + seconds

        async def client() -> list[Told]:
            told = []
            while time.perf_counter() < until:
                told.append(await self.ask())
                await asyncio.sleep(told[-1].retry_after_s)
            return told

        return [one for many in await asyncio.gather(*(client() for _ in range(clients))) for one in many]

    async def at_rate(self, per_second: float, seconds: float, on_second: Callable[[], None]) -> list[Told]:
        """Askers who come at a fixed rate, whatever became of those before, and never twice."""
        begin, asked = time.perf_counter(), []
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, begin + number / per_second - time.perf_counter()))
            asked.append(asyncio.create_task(self.ask()))
            if number % max(1, int(per_second)) == 0:
                on_second()
        return list(await asyncio.gather(*asked))


async def _read(response: httpx.Response, begin: float) -> Told:
    first_s, tokens, model, done = 0.0, 0, "", False
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            done = True
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            break
        model = event["model"]
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        elif not first_s and event["choices"][0]["delta"].get("content"):
            first_s = time.perf_counter() - begin
    return Told(200 if done else 0, time.perf_counter() - begin, first_s, tokens, model)


def question(seed: int) -> dict[str, object]:
    """A request's body: an image of noise and a sentence; answers are drawn, so that their lengths differ."""
    pixels = np.random.default_rng(seed).integers(0, 256, (168, 168), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": "Write the report of this ultrasound image."},
    ]
    return {
        "model": "echovlm-nano",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0.7,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def spread(values: Iterable[float]) -> str:
    """Median, 95th and 99th percentile."""
    found = list(values)
    return " / ".join(f"{np.percentile(found, q):.2f}" for q in (50, 95, 99)) if found else "-"


def by_status(told: Iterable[Told]) -> Iterator[str]:
    """How often which status came; 0 is a broken answer."""
    statuses = [one.status for one in told]
    return (f"{statuses.count(status)} x {status}" for status in sorted(set(statuses)))
