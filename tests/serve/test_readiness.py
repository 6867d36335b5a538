"""What the door tells of its readiness while many ask, without Ray: the tests say how the cluster is."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve.schema import ApplicationStatus, ReplicaState

from sonoloop.serve import gateway, readiness, replica_logs, versions
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.gateway import Gateway
from sonoloop.serve.keys import key_digest

OLD, NEW = "line/1", "line/2"


class Cluster:
    """Two versions that are up, the first one newest; a look takes as long as it is told."""

    def __init__(self) -> None:
        self.num_looks, self.look_s, self.may_end = 0, 0.0, threading.Event()
        self.may_end.set()

    def applications(self) -> dict[str, Any]:
        self.num_looks += 1
        time.sleep(self.look_s)
        assert self.may_end.wait(120)
        deployment = SimpleNamespace(replica_states={ReplicaState.RUNNING: 1})
        up = SimpleNamespace(status=ApplicationStatus.RUNNING, deployments={"Champion": deployment})
        return {NEW: up, OLD: up}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(versions, "applications", cluster.applications)
    monkeypatch.setattr(serve, "get_app_handle", lambda _name: SimpleNamespace(options=lambda **_: None))
    monkeypatch.setattr(replica_logs, "set_up", lambda _config: None)
    monkeypatch.setattr(gateway, "DoorMetrics", lambda _version: SimpleNamespace(changed=lambda _: None))
    return cluster


@pytest.fixture
def door(cluster: Cluster, tmp_path: Path) -> Gateway:
    door = Gateway(ServeSettings(workspace=str(tmp_path)), key_digest("test-key-0123456789abcdef"))
    cluster.num_looks = 0
    return door


def asked(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


def model_of(response: Any) -> str:
    return str(json.loads(response.body)["model"])


def test_many_who_ask_at_once_share_one_look(door: Gateway, cluster: Cluster) -> None:
    cluster.look_s = 0.1

    async def many() -> list[Any]:
        return await asyncio.gather(*(door.readyz() for _ in range(60)))

    assert {(response.status_code, model_of(response)) for response in asked(many)} == {(200, OLD)}
    assert cluster.num_looks == 1


def test_who_hangs_up_does_not_make_the_next_one_look_again(door: Gateway, cluster: Cluster) -> None:
    cluster.look_s = 0.1

    async def impatient() -> Any:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(door.readyz(), 0.001)
        return await door.readyz()

    assert asked(impatient).status_code == 200
    assert cluster.num_looks == 1


def test_a_slow_look_counts_from_its_end_and_not_for_ever(
    door: Gateway, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def slow() -> dict[str, Any]:
        found = Cluster.applications(cluster)
        clock[0] += 5.0
        return found

    monkeypatch.setattr(versions, "applications", slow)
    monkeypatch.setattr(readiness, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    async def twice_and_later() -> tuple[int, int]:
        await door.readyz()
        await door.readyz()
        at_once = cluster.num_looks
        clock[0] += 1.1
        await door.readyz()
        return at_once, cluster.num_looks

    assert asked(twice_and_later) == (1, 2)


def test_a_look_at_what_served_before_a_switch_is_dropped(door: Gateway, cluster: Cluster) -> None:
    async def switching() -> list[str]:
        cluster.may_end.clear()
        during = asyncio.create_task(door.readyz())
        while not cluster.num_looks:
            await asyncio.sleep(0.01)
        await door.switch(NEW)
        cluster.may_end.set()
        return [model_of(await during), model_of(await door.readyz())]

    assert asked(switching) == [NEW, NEW]


def test_a_champion_that_is_not_served_is_told_at_once(door: Gateway) -> None:
    async def failing() -> Any:
        await door.readyz()
        await door.switch(OLD, NEW)
        return json.loads((await door.readyz()).body)

    assert asked(failing)["champion_not_served"] == NEW


def test_a_look_that_fails_is_not_kept(
    door: Gateway, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> dict[str, Any]:
        raise TimeoutError

    async def again() -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(versions, "applications", fail)
            with pytest.raises(TimeoutError):
                await door.readyz()
        return await door.readyz()

    assert asked(again).status_code == 200
