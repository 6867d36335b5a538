"""Work that is found while it is done: nothing is lost, doubled or held back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sonoloop.jobs.indexing.spread import spread
from sonoloop.jobs.runs import ray_session
from sonoloop.platform.cluster import RayConfig
from sonoloop.platform.errors import StorageError

pytestmark = pytest.mark.usefixtures("ray_cluster")


Find = Callable[[int, int], Iterator[int]]


@pytest.fixture
def numbers() -> Find:
    """The numbers of a range; no function of this module, which workers cannot import."""

    def find(low: int, high: int) -> Iterator[int]:
        for number in range(low, high):  # noqa: UP028 - Ray sends into the generator
            yield number

    return find


def test_every_piece_of_every_source_is_done_once(numbers: Find) -> None:
    sources = [(10 * n, 10 * n + n) for n in range(9)]
    found = list(spread(sources, numbers, lambda piece: piece))
    assert sorted(found) == [n for low, high in sources for n in range(low, high)]
    assert list(spread([], numbers, lambda piece: piece)) == []


def test_a_worker_that_is_killed_costs_nothing(numbers: Find, tmp_path: Path) -> None:
    mark = tmp_path / "killed"

    def do(piece: int) -> int:
        if piece == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return piece

    assert sorted(spread([(0, 3), (3, 6)], numbers, do)) == list(range(6))
    assert mark.exists()


def test_what_is_under_way_when_a_task_fails_is_ended_and_not_interrupted(
    numbers: Find, tmp_path: Path
) -> None:
    """An interrupted worker goes on to the next run, with whatever lock it had just taken."""
    under_way, interrupted = tmp_path / "under way", tmp_path / "interrupted"

    def do(piece: int) -> None:
        try:
            if piece == 1:
                under_way.write_text(str(os.getpid()))
            while piece == 1 or not under_way.exists():
                time.sleep(0.05)
        except BaseException:
            interrupted.touch()
            raise
        raise StorageError("no such bucket")

    with pytest.raises(StorageError):
        list(spread([(0, 2)], numbers, do))
    deadline = time.monotonic() + 300
    while psutil.pid_exists(int(under_way.read_text())) and not interrupted.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not interrupted.exists()


@pytest.mark.parametrize("where", ["find", "do"])
def test_an_error_of_a_task_arrives_as_it_was_raised(where: str) -> None:
    def find(low: int, high: int) -> Iterator[int]:
        yield low
        if where == "find":
            raise StorageError("no such bucket")
        yield high

    def do(piece: int) -> int:
        if where == "do":
            raise StorageError("no such bucket")
        return piece

    with pytest.raises(StorageError, match=r"^no such bucket$"), ray_session(RayConfig()):
        list(spread([(0, 1)], find, do))
