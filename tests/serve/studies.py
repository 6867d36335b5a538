"""Studies to post to ``/v1/drafts``, and the route over the built-in model in this process."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from tests.serve.fixed import fixed

from sonoloop.model import nano
from sonoloop.model.open_engine import LoadedEngine, open_engine
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup, build_studies
from sonoloop.platform.workspace import Store
from sonoloop.serve.app import Api
from sonoloop.serve.champion import Event, Question, answer_events, in_thread
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.drafts.case import CaseEvent, DraftCase
from sonoloop.serve.drafts.drafting import draft_events
from sonoloop.serve.drafts.routes import Drafts
from sonoloop.serve.keys import key_digest
from sonoloop.serve.page.routes import page_router

API_KEY = "test-key-0123456789abcdef"
VERSION = "nano/1"
THREADS = ThreadPoolExecutor(32)


@cache
def phantom_study(cine: bool = False) -> tuple[bytes, ...]:
    """The DICOM files of a made-up breast study: with a loop, or of stills."""
    config = PhantomConfig(
        seed=7,
        groups=(PhantomGroup(organ="breast", scanner="A", count=1),),
        cine_share=float(cine),
        second_still_share=1.0,
        workers=1,
    )
    (study,) = build_studies(config)
    return tuple(data for _, data in study.files)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(*files: bytes, names: tuple[str, ...] = ()) -> bytes:
    """The files in a zip, under these names or numbers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, data in enumerate(files):
            archive.writestr(names[number] if names else f"{number}", data)
    return buffer.getvalue()


@cache
def nano_engine() -> LoadedEngine:
    """The built-in model, loaded once."""
    return open_engine(nano.folder())


_doors: dict[str, FastAPI] = {}


def door(settings: ServeSettings) -> FastAPI:
    """The whole door over the built-in model, without Ray; one for the same settings."""
    name = settings.model_dump_json()
    if name not in _doors:
        _doors[name] = _made(settings)
    return _doors[name]


def _made(settings: ServeSettings) -> FastAPI:

    async def ask(question: Question) -> AsyncGenerator[Event, None]:
        async for events in in_thread(answer_events(nano_engine(), question), THREADS):
            for event in events:
                yield event

    async def write(case: DraftCase) -> AsyncGenerator[CaseEvent, None]:
        workspace = Store(settings.workspace)
        written = draft_events(nano_engine(), workspace, VERSION, case)
        async for events in in_thread(written, THREADS):
            for event in events:
                yield event

    rooms = [Drafts(settings, write).router, page_router]
    workspace = Store(settings.workspace)
    return Api(settings.serve, "nano", fixed(VERSION, ask), key_digest(API_KEY), rooms, workspace).app()
