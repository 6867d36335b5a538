"""The nightly form: parts of running drafts are killed at random moments, fifty times and more.

``SONOLOOP_CHAOS_KILLS`` says how many times, ``SONOLOOP_CHAOS_SEED`` repeats a night.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pytest
from tests.chaos.conftest import ACCELERATOR, RayNodes
from tests.chaos.disturbed import Annotate, assert_same, restart_s3, uploaded
from tests.conftest import S3Stack
from tests.fault_proxy import Fault, Proxy

from sonoloop.platform.workspace import S3Config, Store

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(4 * 3600)]
logger = logging.getLogger(__name__)

KILLS = int(os.environ.get("SONOLOOP_CHAOS_KILLS", "50"))
KILLS_PER_RUN = 4
WORKERS = ("(Preparer)", "ray::Write", "ray::Read", "CheckpointFilter", "ray::")
ON_ACCELERATORS = f"actor_resources = {{ {ACCELERATOR} = 1 }}"


@dataclass
class Battlefield:
    """A run and all that can be done to it; each method tells whether it found something to kill."""

    run: Annotate
    ray_nodes: RayNodes
    s3: S3Stack
    proxy: Proxy
    dice: random.Random

    def model_actor(self) -> bool:
        """SIGKILL to the model actor."""
        return self._kill("(Drafter)")

    def worker(self) -> bool:
        """SIGKILL to any other worker process."""
        return self._kill(self.dice.choice(WORKERS))

    def node(self) -> bool:
        """SIGKILL to a raylet."""
        self.ray_nodes.kill_node(self.dice.choice(self.ray_nodes.accelerated))
        return True

    def driver(self) -> bool:
        """SIGKILL to the process group of the driver, and the same command again."""
        if self.run.process.poll() is not None:
            return False
        self.run.kill()
        self.run.start()
        return True

    def busy_s3(self) -> bool:
        """503 for 30 s."""
        over = time.monotonic() + 30
        self.proxy.fails = lambda _key, _times: (
            Fault(503, "ServiceUnavailable") if time.monotonic() < over else None
        )
        return True

    def restarted_s3(self) -> bool:
        """SIGKILL to S3, which comes back."""
        restart_s3(self.s3.folder)
        return True

    def _kill(self, name: str) -> bool:
        found = list(self.ray_nodes.find(name))
        if found:
            os.kill(self.dice.choice(found), signal.SIGKILL)
        return bool(found)


def test_random_kills_leave_the_drafts_of_an_undisturbed_run(
    annotate: Callable[..., Annotate],
    prepared: Store,
    ray_nodes: RayNodes,
    own_s3: S3Stack,
    proxy: Proxy,
    undisturbed: pa.Table,
) -> None:
    seed = int(os.environ.get("SONOLOOP_CHAOS_SEED", secrets.randbelow(10**6)))
    print(f"\nSONOLOOP_CHAOS_SEED={seed}", flush=True)  # noqa: T201 - what repeats a night
    dice, kills = random.Random(seed), Counter[str]()
    while kills.total() < KILLS:
        proxy.fails = lambda _key, _times: None
        there = f"s3://{own_s3.bucket()}/workspace"
        uploaded(prepared, there, S3Config(endpoint_url=own_s3.endpoint))
        run = annotate(
            ray_nodes.env, ON_ACCELERATORS, store=Store(there, S3Config(endpoint_url=proxy.endpoint))
        )
        field = Battlefield(run, ray_nodes, own_s3, proxy, dice)
        kills.update(_disturb(field))
        run.finish_or_again()
        proxy.fails = lambda _key, _times: None
        assert run.process.returncode == 0, run.complaint()
        assert_same(run.store, undisturbed)
        print(f"{kills.total()} kills, all drafts as undisturbed: {dict(kills)}", flush=True)  # noqa: T201


def _disturb(field: Battlefield) -> Iterator[str]:
    kinds = (
        field.model_actor,
        field.worker,
        field.worker,
        field.node,
        field.driver,
        field.busy_s3,
        field.restarted_s3,
    )
    for _ in range(KILLS_PER_RUN):
        time.sleep(field.dice.uniform(0.5, 12))
        if field.run.process.poll() is not None:
            return
        kind = field.dice.choice(kinds)
        if kind():
            yield kind.__name__
