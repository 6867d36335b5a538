"""`sonoloop finetune` on Ray Train: a lost worker, another number of them, a loss that is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos.disturbed import processes_below
from tests.jobs.learnable import NAME, config_of, make_workspace

from sonoloop.jobs.claims import Claim
from sonoloop.jobs.evaluate import snapshot_of
from sonoloop.jobs.finetune import run_finetune
from sonoloop.jobs.finetuning.curve import read_curve
from sonoloop.jobs.runs import read_runs, start_run
from sonoloop.platform import registry
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.workspace import Store

pytestmark = pytest.mark.ray
STORED = [
    *(8.04122, 8.20398, 7.96052, 4.02348),
    *(4.23986, 2.72842, 2.87988, 1.85191),
    *(2.25177, 2.33351, 1.31258, 1.41343),
]
"""The losses of the same training by two workers that nothing disturbed (torch 2.13 on a CPU)."""


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return make_workspace(tmp_path / "workspace")


def training_ranks() -> list[int]:
    """The processes of Ray Train's workers."""
    found = processes_below(os.getpid()).items()
    return sorted(pid for pid, command in found if command.startswith("ray::") and "TrainWorker" in command)


@contextmanager
def when(happened: Callable[[], object], act: Callable[[], None]) -> Iterator[None]:
    """Do something once, as soon as something has happened, beside the block."""
    stop = threading.Event()

    def wait() -> None:
        while not stop.wait(0.02):
            if happened():
                act()
                return

    watcher = threading.Thread(target=wait, daemon=True)
    watcher.start()
    yield
    stop.set()
    watcher.join()


def steps_kept(workspace: Store) -> int:
    """Steps in the curve of the newest run, as far as its last checkpoint."""
    runs = [name for name in workspace.folders("runs") if name.startswith("finetune-")]
    return len(read_curve(workspace, runs[-1])) if runs else 0


def test_a_training_that_lost_a_worker_is_gone_on_with_by_another_number_of_them(
    workspace: Store, ray_cluster: str
) -> None:
    before = registry.read_aliases(workspace, NAME)
    kept_s = {"checkpoint_every_steps": 2}
    with (
        when(lambda: steps_kept(workspace) >= 4, lambda: os.kill(training_ranks()[-1], signal.SIGKILL)),
        pytest.raises(ServiceError, match="the same command goes on from the last checkpoint"),
    ):
        run_finetune(config_of(workspace, num_workers=2, max_failures=0, **kept_s))
    assert registry.read_aliases(workspace, NAME) == before
    (begun,) = read_runs(workspace)
    config = config_of(workspace, num_workers=1, zero_stage=0, **kept_s)
    other = config.model_copy(update={"model": config.model.model_copy(update={"name": "other"})})
    for run_id, key, asked in (("left", "l", config), ("held", "h", config), ("of-other", "o", other)):
        start_run(workspace, "finetune", run_id=run_id, key=key, config=asked)
        workspace.write_bytes(b"", "runs", run_id, "train", "checkpoint_0", "weights")
    with Claim(workspace, "runs", "training-h", "claim.json"):
        done = run_finetune(config)
    assert (done.resumed, done.run_id, begun.state) == (True, begun.run_id, "running")
    curve = read_curve(workspace, done.run_id)
    assert [record.step for record in curve] == list(range(12))
    assert [record.workers for record in curve] == sorted((r.workers for r in curve), reverse=True)
    assert {record.workers for record in curve} == {1, 2}
    assert [record.loss for record in curve] == pytest.approx(STORED, rel=1e-3)
    run, left, held, of_other = read_runs(workspace)
    assert (left.state, held.state, of_other.state) == ("failed", "running", "running")
    assert left.reason == f"interrupted, and overtaken by {done.run_id}"
    assert [workspace.folders("runs", name) for name in ("left", "held")] == [[], ["train"]]
    assert (run.state, run.counts["steps"]) == ("finished", 12)
    assert (run.figures["loss_start"], run.figures["loss"]) == (curve[0].loss, curve[-1].loss)
    assert run.figures["tokens_per_s"] > 0
    assert workspace.folders("runs", run.run_id) == []  # no checkpoint stays
    aliases = registry.read_aliases(workspace, NAME)
    assert (aliases.champion, aliases.challenger) == (before.champion, done.challenger)
    assert snapshot_of(workspace, done.challenger) == done.snapshot


def test_a_loss_that_is_no_number_ends_the_run_at_once_and_it_is_not_gone_on_with(
    workspace: Store, ray_cluster: str
) -> None:
    before = registry.read_aliases(workspace, NAME)
    with pytest.raises(ServiceError, match=r"the loss is (nan|inf) at step 2 of 12, in epoch 1; lower"):
        run_finetune(config_of(workspace, num_workers=1, learning_rate=1e30))
    (run,) = read_runs(workspace)
    assert run.state == "failed"
    assert run.reason is not None
    assert "step 2 of 12" in run.reason
    assert registry.read_aliases(workspace, NAME) == before
