"""Parts of a running `sonoloop finetune` are killed or run full; the same command, or it itself, goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.conftest import RayNodes
from tests.chaos.disturbed import Verb, copied, starting
from tests.jobs.learnable import NAME, make_workspace

from sonoloop.jobs.finetuning.curve import read_curve
from sonoloop.jobs.runs import read_runs
from sonoloop.platform import registry
from sonoloop.platform.errors import StorageError
from sonoloop.platform.workspace import Store

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
NUM_STEPS = 12
TRAINER = "TrainWorker"
HALF_A_CPU = "cpus_per_worker = 0.5"


class Finetune(Verb):
    """``sonoloop finetune``."""

    name = "finetune"
    given = (
        "learning_rate = 1e-3",
        'recipe = { name = "full", tasks = { report = 1 } }',
        "batch_size = 4",
        "test_share = 0.2",
        "micro_batch_size = 2",
        "checkpoint_every_steps = 2",
    )

    def until_steps(self, num_steps: int) -> None:
        """Wait until a checkpoint stands at so many steps."""
        self.until(lambda: len(self.losses()) >= num_steps, f"{num_steps} steps were kept")

    def losses(self) -> list[float]:
        """Of the steps until the last checkpoint."""
        runs = read_runs(self.store)
        return [record.loss for record in read_curve(self.store, runs[-1].run_id)] if runs else []

    def final_losses(self) -> list[float]:
        """Wait for its end; the losses of all steps."""
        self.finish()
        return self.losses()


@pytest.fixture(scope="module")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A workspace in which nothing is trained; not to be written to."""
    return make_workspace(tmp_path_factory.mktemp("learnable") / "workspace")


@pytest.fixture
def finetune(learnable: Store, tmp_path: Path) -> Iterator[Callable[..., Finetune]]:
    """Starts `sonoloop finetune` on a copy of the workspace; ended with the test."""
    yield from starting(Finetune, learnable, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(
    learnable: Store, ray_nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """The losses of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = Finetune(copied(learnable, folder / "workspace"), folder, ray_nodes.env, (HALF_A_CPU,))
    run.start()
    return run.final_losses()


def same(losses: list[float], reference: list[float]) -> bool:
    return len(losses) == NUM_STEPS and losses == pytest.approx(reference, rel=1e-3)


def test_a_killed_rank_costs_what_came_since_the_last_checkpoint_and_changes_no_loss(
    finetune: Callable[..., Finetune], ray_nodes: RayNodes, undisturbed: list[float]
) -> None:
    run = finetune(ray_nodes.env, HALF_A_CPU)
    run.until_steps(4)
    os.kill(next(iter(ray_nodes.find(TRAINER))), signal.SIGKILL)
    assert same(run.final_losses(), undisturbed)


def test_a_killed_driver_is_followed_by_the_same_command_that_goes_on(
    finetune: Callable[..., Finetune], ray_nodes: RayNodes, undisturbed: list[float]
) -> None:
    run = finetune(ray_nodes.env, HALF_A_CPU)
    run.until_steps(4)
    run.kill()
    kept = run.losses()
    run.start()
    assert same(run.final_losses(), undisturbed)
    assert run.losses()[: len(kept)] == kept
    assert "going on with finetune-" in run.said()
    (done,) = read_runs(run.store)
    assert done.state == "finished"


def test_a_lost_node_is_survived_by_fewer_workers(
    finetune: Callable[..., Finetune], ray_nodes: RayNodes, undisturbed: list[float]
) -> None:
    # the head has room for two of them
    spread = ("num_workers = 3", "min_workers = 1", "cpus_per_worker = 1.5", "cpus_per_preparer = 0.1")
    run = finetune(ray_nodes.env, *spread)
    run.until_steps(4)
    elsewhere = [node for node in ray_nodes.find(TRAINER).values() if node in ray_nodes.accelerated]
    if not elsewhere:
        pytest.skip("Ray put all workers on the head, which cannot be killed")
    ray_nodes.kill_node(elsewhere[0])
    assert same(run.final_losses(), undisturbed)


@pytest.fixture
def small_disk(learnable: Store, tmp_path: Path) -> Iterator[Store]:
    """The workspace on a file system that has room for two checkpoints, and not for more."""
    folder = tmp_path / "small"
    folder.mkdir()
    used = sum(path.stat().st_size for path in Path(learnable.root).rglob("*") if path.is_file())
    size = f"size={used // 2**20 + 90}m"  # a checkpoint of the nano model takes 56 MB
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield copied(learnable, folder / "workspace")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_training_with_the_checkpoint_before_and_room_lets_it_go_on(
    finetune: Callable[..., Finetune], ray_nodes: RayNodes, undisturbed: list[float], small_disk: Store
) -> None:
    before: Any = registry.read_aliases(small_disk, NAME)
    run = finetune(ray_nodes.env, HALF_A_CPU, store=small_disk)
    assert run.ends_with() == StorageError.exit_code, run.complaint()
    assert "the checkpoint at step 4 of 12 cannot be written" in run.said()
    assert "goes on from the checkpoint before" in run.said()
    assert registry.read_aliases(small_disk, NAME) == before
    subprocess.run(["mount", "-o", "remount,size=2g", str(Path(small_disk.root).parent)], check=True)
    assert shutil.disk_usage(small_disk.root).free > 10**9
    run.start()
    assert same(run.final_losses(), undisturbed)
