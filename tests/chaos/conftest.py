"""A workspace, what an undisturbed run makes of it, and a cluster of three raylets: once for all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.chaos.disturbed import Annotate, copied, drafts_of, make_workspace, processes_below, starting
from tests.conftest import S3Stack, started
from tests.fault_proxy import Proxy, proxy_before

from sonoloop.platform.stack import Component, environment, s3, stop
from sonoloop.platform.workspace import Store

HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
"""A node whose raylet is killed counts as dead after 2 s instead of 15: only the test waits less."""
ACCELERATOR = "accelerator"


@dataclass
class RayNodes:
    """A head and worker nodes with an accelerator each, all raylets of this machine."""

    cluster: Any
    keys: dict[str, str]
    accelerated: list[Any] = field(default_factory=list)

    def add(self, **options: Any) -> Any:
        """A node more, whose workers know the keys; other tests of this process do not."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.keys.items():
                patch.setenv(name, value)
            return self.cluster.add_node(**options)

    def add_accelerated(self) -> None:
        """One more node with an accelerator."""
        node = self.add(num_cpus=2, resources={ACCELERATOR: 1}, object_store_memory=80 * 2**20)
        self.accelerated.append(node)

    @property
    def env(self) -> dict[str, str]:
        """The environment of a driver that joins."""
        return {**os.environ, **self.keys, "RAY_ADDRESS": self.cluster.address}

    def raylet(self, node: Any) -> int:
        """The pid of a node's raylet."""
        return int(node.all_processes["raylet"][0].process.pid)

    def find(self, name: str) -> dict[int, Any]:
        """Pid -> node of the Ray workers whose title holds a name."""
        nodes = [self.cluster.head_node, *self.accelerated]
        return {
            pid: node
            for node in nodes
            for pid, command in processes_below(self.raylet(node)).items()
            if command.startswith("ray::") and name in command
        }

    def kill_node(self, node: Any) -> None:
        """SIGKILL to a raylet; another node takes its place."""
        os.kill(self.raylet(node), signal.SIGKILL)
        self.accelerated.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.add_accelerated()

    def stop(self) -> None:
        """End all of it."""
        self.cluster.shutdown()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """With the last test here its cluster goes: it would cost a fifth of a core beside all tests to come."""
    nodes = getattr(item, "funcargs", {}).get("ray_nodes")
    if nodes is not None and (nextitem is None or nextitem.path.parent != item.path.parent):
        nodes.stop()


@pytest.fixture(scope="session")
def own_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Stack]:
    """An S3 that no other test uses."""
    folder = tmp_path_factory.mktemp("own-s3")
    endpoint = started(folder, Component.S3).s3_endpoint
    assert endpoint is not None
    client = s3.client(endpoint, s3.load_or_create_keys(folder))
    yield S3Stack(folder=folder, endpoint=endpoint, env=environment(folder), client=client)
    stop(folder)


@pytest.fixture
def proxy(own_s3: S3Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before it, that fails as it is told; the test itself knows the keys."""
    for name, value in own_s3.env.items():
        monkeypatch.setenv(name, value)
    with proxy_before(own_s3.endpoint) as running:
        yield running


@pytest.fixture(scope="session")
def ray_nodes(own_s3: S3Stack) -> Iterator[RayNodes]:
    """A head with 4 logical CPUs and two nodes with 2 and an accelerator; all know the keys of `own_s3`."""
    from ray.cluster_utils import Cluster

    nodes = RayNodes(Cluster(), own_s3.env)
    nodes.add(
        num_cpus=4,
        resources={"decoder": 1},
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _system_config=HEALTH,
    )
    nodes.add_accelerated()
    nodes.add_accelerated()
    yield nodes
    nodes.stop()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A workspace in which nothing is drafted; not to be written to."""
    return make_workspace(tmp_path_factory.mktemp("chaos") / "workspace")


@pytest.fixture(scope="session")
def undisturbed(prepared: Store, ray_nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The drafts of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = Annotate(copied(prepared, folder / "workspace"), folder, ray_nodes.env)
    run.start()
    run.finish()
    return drafts_of(run.store)


@pytest.fixture
def annotate(prepared: Store, tmp_path: Path) -> Iterator[Callable[..., Annotate]]:
    """Starts `sonoloop annotate` on a copy of the workspace; ended with the test."""
    yield from starting(Annotate, prepared, tmp_path)
