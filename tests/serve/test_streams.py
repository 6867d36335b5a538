from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from sonoloop.serve.streams import merged


def test_events_come_as_they_are_made_each_with_its_streams_number() -> None:
    async def stream(first: asyncio.Event, then: asyncio.Event, text: str) -> AsyncGenerator[str, None]:
        await first.wait()
        yield text
        then.set()

    async def main() -> list[tuple[int, str]]:
        now, later = asyncio.Event(), asyncio.Event()
        now.set()
        streams = [stream(later, now, "late"), stream(now, later, "early")]
        return [event async for event in merged(streams)]

    assert asyncio.run(main()) == [(1, "early"), (0, "late")]


def test_one_stream_that_fails_ends_and_closes_the_others() -> None:
    closed = []

    async def endless(number: int) -> AsyncGenerator[int, None]:
        try:
            while True:
                yield number
                await asyncio.sleep(0)
        finally:
            closed.append(number)

    async def failing() -> AsyncGenerator[int, None]:
        yield 2
        raise OSError("disk")

    async def main() -> None:
        with pytest.raises(OSError, match="disk"):
            async for _ in merged([endless(0), endless(1), failing()]):
                pass
        assert sorted(closed) == [0, 1]

    asyncio.run(main())


def test_a_reader_who_leaves_closes_all_streams() -> None:
    closed = []

    async def waiting(number: int) -> AsyncGenerator[int, None]:
        try:
            yield number
            await asyncio.Event().wait()
        finally:
            closed.append(number)

    async def main() -> None:
        async with aclosing(merged([waiting(0), waiting(1)])) as events:
            assert await anext(events) == (0, 0)
            assert await anext(events) == (1, 1)
        assert sorted(closed) == [0, 1]

    asyncio.run(main())
