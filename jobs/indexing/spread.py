"""Work that is found while it is done: tasks find pieces of it, other tasks do them, the driver only pairs.

Plain Ray tasks rather than Ray Data: a piece (a page of a listing, a few cases) is compared, done and written
by one task, and what comes back is a handful of counts. The driver holds references to the few pieces under
way, however many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

P = TypeVar("P")
T = TypeVar("T")

FINDERS_AT_ONCE = 4
PIECES_AHEAD = 4


def spread(
    sources: Sequence[tuple[Any, ...]],
    find: Callable[..., Iterator[P]],
    do: Callable[..., T],
    *shared: ray.ObjectRef[Any],
) -> Iterator[T]:
    """Results of ``do(piece, *shared)`` for every piece that ``find(*source)`` yields, in no order.

    Both run in tasks, which Ray repeats where a worker dies, so both may run twice. ``find`` waits while
    nobody takes its pieces, and holds no CPU. References are given as arguments: a task that waits for one
    while it runs makes Ray start another process.
    """
    streaming: dict[str, Any] = {
        "num_returns": "streaming",
        "_generator_backpressure_num_objects": PIECES_AHEAD,
    }
    finder = ray.remote(num_cpus=0, **streaming)(find)
    doer = ray.remote(num_cpus=1)(do)
    waiting = deque(sources)
    finding: list[Any] = []
    doing: list[Any] = []
    try:
        while waiting or finding or doing:
            while waiting and len(finding) < FINDERS_AT_ONCE:
                finding.append(finder.remote(*waiting.popleft()))
            most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # grows as an autoscaler adds nodes
            taking = finding if len(doing) < most else []
            (ready,), _ = ray.wait([*doing, *taking], num_returns=1, fetch_local=False)
            if isinstance(ready, ray.ObjectRef):
                doing.remove(ready)
                yield ray.get(ready)
            elif (piece := next(ready, None)) is not None:
                doing.append(doer.remote(piece, *shared))
            else:
                finding.remove(ready)
    finally:
        for unfinished in (*doing, *finding):
            # Not an interrupt: one that comes within `logging` leaves its lock taken, and the next run waits.
            ray.cancel(unfinished, force=True)
