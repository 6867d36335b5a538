"""A cluster of CPU nodes and accelerator nodes: who runs where, how much waits, and what a crash costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.conftest import ACCELERATOR, RayNodes
from tests.chaos.light_driver import CASES_PER_UNIT, make_units

from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store

pytestmark = pytest.mark.ray
NUM_UNITS = 40
MAX_LOST = 8
"""Units that a crash may lose once the first one is durable, on 8 logical CPUs: a task that writes holds one.
On a busy machine a task whose process has yet to start keeps its unit for long."""


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(ray_nodes: RayNodes, tmp_path: Path) -> Iterator[Start]:
    """Starts the light driver on the test's workspace; what still runs is ended with the test."""
    drivers: list[subprocess.Popen[bytes]] = []
    root = str(Path(__file__).parents[2])

    def begin(*, mib: float, seconds: float, **settings: object) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "tests.chaos.light_driver", str(tmp_path), json.dumps(settings)]
        paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
        env = {**ray_nodes.env, "PYTHONPATH": paths}
        driver = subprocess.Popen(
            [*program, str(mib), str(seconds)], env=env, cwd=root, start_new_session=True
        )
        drivers.append(driver)
        return driver

    yield begin
    for driver in drivers:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()


def marks(folder: Path, kind: str) -> list[list[str]]:
    """The parts of the marks of one kind."""
    return [
        path.name.split("-")[1:] for path in Path(folder, "marks").iterdir() if path.name.startswith(kind)
    ]


def drafted_units(folder: Path) -> list[int]:
    """The unit of every row in ``drafts/``, one entry per unit and file."""
    rows = Store(str(folder)).read_tables(DraftRecord.ARROW, "drafts")
    counts = Counter(rows["unit"].to_pylist())
    assert set(counts.values()) <= {CASES_PER_UNIT}
    return sorted(counts)


def test_model_actors_run_on_accelerators_only_as_many_as_there_is_work_and_preparers_elsewhere(
    start: Start, ray_nodes: RayNodes, tmp_path: Path
) -> None:
    make_units(Store(str(tmp_path)), NUM_UNITS)
    driver = start(
        mib=0.1,
        seconds=2,  # 80 s of work for one: there is some left when the second one has started, however slowly
        num_actors=1,
        max_actors=2,
        actor_resources={ACCELERATOR: 1},
        preparer_resources={"decoder": 0.5},
    )
    assert driver.wait(400) == 0
    drafters, preparers = marks(tmp_path, "drafter"), marks(tmp_path, "preparer")
    accelerated = {node.node_id for node in ray_nodes.accelerated}
    assert {node for node, _ in drafters} == accelerated
    assert {node for node, _ in preparers} == {ray_nodes.cluster.head_node.node_id}
    assert drafted_units(tmp_path) == list(range(NUM_UNITS))


def test_pixels_far_beyond_the_object_store_pass_through_it(start: Start, tmp_path: Path) -> None:
    make_units(Store(str(tmp_path)), 60)
    driver = start(mib=20, seconds=0.05, waiting_mib=60, actor_resources={ACCELERATOR: 1})
    assert driver.wait(400) == 0
    assert drafted_units(tmp_path) == list(range(60))


def test_a_killed_driver_costs_the_units_that_were_on_their_way_and_no_more(
    start: Start, tmp_path: Path
) -> None:
    num_units = 2 * NUM_UNITS  # work is left to kill, however late the first file comes
    make_units(Store(str(tmp_path)), num_units)
    driver = start(mib=0.1, seconds=3)
    until(lambda: any(tmp_path.glob("drafts/*/*.parquet")), driver)
    begun = len(marks(tmp_path, "unit"))
    until(lambda: len(marks(tmp_path, "unit")) >= begun + 2 * MAX_LOST, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert start(mib=0.1, seconds=0).wait(400) == 0
    times_drafted = Counter(int(unit) for unit, *_ in marks(tmp_path, "unit"))
    assert sorted(times_drafted) == drafted_units(tmp_path) == list(range(num_units))
    redone = [unit for unit, times in times_drafted.items() if times > 1]
    assert len(redone) <= MAX_LOST, redone


def until(condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
