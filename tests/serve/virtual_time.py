"""A clock that stands still while anything works: seconds in a test are exact, and cost nothing."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
LIMIT_S = 100_000.0
"""Where a test would wait for ever, it gets `TimeoutError`."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, in virtual time: when nothing is left to do, the clock jumps to what comes next.

    What is given to a thread runs at once, in the loop's own. Only for code that waits for nothing outside of
    its loop: no sockets, no subprocesses.
    """

    async def limited() -> T:
        return await asyncio.wait_for(main, LIMIT_S)

    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(limited())


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as err:  # as a thread would
            done.set_exception(err)
        return done


class _Clock(selectors.SelectSelector):
    """Waits by moving its hands."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self.now_s += timeout
        return ready
