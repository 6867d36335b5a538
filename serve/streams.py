"""Streams of events: several as one, with a deadline, and begun before they are handed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import TypeVar

from sonoloop.serve.protocol import ApiError

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """The events of several streams as they come, each with its stream's number.

    What a stream raises is raised here. However this ends, all streams are closed.
    """
    arrived: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream):
                async for event in stream:
                    arrived.put_nowait((number, event))
        except Exception as err:  # handed to the reader, who raises it
            arrived.put_nowait(err)
        else:
            arrived.put_nowait(None)

    pumps = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        num_open = len(pumps)
        while num_open:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def in_time(events: AsyncGenerator[T, None], timeout_s: float) -> AsyncGenerator[T, None]:
    """The same events, up to a deadline for all of them together.

    Raises:
        ApiError: 504, past the deadline.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    async with aclosing(events):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ApiError(
                    HTTPStatus.GATEWAY_TIMEOUT,
                    f"the answer took more than {timeout_s:g} s; ask for fewer tokens or later",
                    code="timeout",
                ) from None
            yield event


async def begun(events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same events, once the first of them is there; what is raised before it is raised here."""
    first = await anext(events)

    async def all_of_them() -> AsyncGenerator[T, None]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return all_of_them()
