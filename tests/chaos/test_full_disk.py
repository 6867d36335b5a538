"""A disk without a free byte under the object store: nothing of a run has to be put there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.disturbed import DEADLINE_S
from tests.chaos.light_driver import CASES_PER_UNIT, make_units

from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
NUM_UNITS = 60
STORE_BYTES = 100 * 2**20


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is full."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free))
        assert shutil.disk_usage(folder).free == 0
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def address(full_disk: Path) -> Iterator[str]:
    """A Ray that has nowhere to spill to."""
    from ray.cluster_utils import Cluster

    spilling = {"type": "filesystem", "params": {"directory_path": str(full_disk)}}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 4,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_system_config": {"object_spilling_config": json.dumps(spilling)},
        },
    )
    yield str(cluster.address)
    cluster.shutdown()


def test_a_run_of_many_times_the_object_store_needs_no_disk(address: str, tmp_path: Path) -> None:
    workspace = Store(str(tmp_path / "workspace"))
    make_units(workspace, NUM_UNITS)
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    env = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "tests.chaos.light_driver", str(workspace.root), "{}", "20", "0.05"]
    subprocess.run(command, env=env, cwd=root, check=True, timeout=DEADLINE_S)
    units = workspace.read_tables(DraftRecord.ARROW, "drafts")["unit"].to_pylist()
    assert sorted(units) == sorted(list(range(NUM_UNITS)) * CASES_PER_UNIT)
