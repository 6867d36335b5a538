"""Parts of a running `sonoloop annotate` are killed; it, or the same command again, makes the same drafts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

import pyarrow as pa
import pytest
from tests.chaos.conftest import ACCELERATOR, RayNodes
from tests.chaos.disturbed import NUM_CASES, NUM_UNITS, Annotate, assert_same, assert_undisturbed

pytestmark = pytest.mark.ray
ON_ACCELERATORS = (f"actor_resources = {{ {ACCELERATOR} = 1 }}",)


def test_killed_workers_a_killed_model_actor_and_a_killed_node_cost_no_case(
    annotate: Callable[..., Annotate], ray_nodes: RayNodes, undisturbed: pa.Table
) -> None:
    run = annotate(ray_nodes.env, *ON_ACCELERATORS)
    kill(run.until(lambda: ray_nodes.find("(Preparer)"), "a preparer was there"))
    kill(run.until(lambda: ray_nodes.find("ray::Write"), "a unit was written"))
    run.until_durable(3)
    kill(run.until(lambda: ray_nodes.find("(Drafter)"), "a model actor was there"))
    run.until_durable(6)
    node = run.until(lambda: list(ray_nodes.find("(Drafter)").values()), "a model actor was there again")
    ray_nodes.kill_node(node[0])
    assert len(run.files()) < NUM_UNITS
    assert_undisturbed(run, undisturbed)


def kill(found: Mapping[int, object]) -> None:
    os.kill(next(iter(found)), signal.SIGKILL)


def test_a_driver_killed_while_it_drafts_and_while_it_closes_is_finished_by_the_same_command(
    annotate: Callable[..., Annotate], ray_nodes: RayNodes, undisturbed: pa.Table
) -> None:
    run = annotate(ray_nodes.env)
    run.until_durable(4)
    run.kill()
    run.start()
    run.until(lambda: any("sorted-" in path for path in run.files()), "the run was closing")
    run.kill()
    run.start()
    summary = run.finish()
    assert summary["cases"] in (0, NUM_CASES)  # 0 where it was killed just after its last mark
    assert_same(run.store, undisturbed)
