"""The real door over a real engine, without Ray: on a port of its own, for clients of any kind."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from tests.serve.fixed import fixed

from sonoloop.model.open_engine import LoadedEngine
from sonoloop.serve.app import Api
from sonoloop.serve.champion import Event, Question, answer_events, in_thread
from sonoloop.serve.config import ServeConfig
from sonoloop.serve.keys import key_digest

API_KEY = "test-key-0123456789abcdef"
NAME, VERSION = "untrained", "untrained/0123456789ab"


def app_of(engine: LoadedEngine, config: ServeConfig) -> FastAPI:
    """The application over one engine in this process."""

    threads = ThreadPoolExecutor(2 * config.ongoing_per_replica)

    async def ask(question: Question) -> AsyncGenerator[Event, None]:
        async for events in in_thread(answer_events(engine, question), threads):
            for event in events:
                yield event

    return Api(config, NAME, fixed(VERSION, ask), key_digest(API_KEY)).app()


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The application on a free port; gives its address."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        server.should_exit = True
        thread.join(120)
