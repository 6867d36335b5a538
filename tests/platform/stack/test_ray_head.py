"""The local Ray head: reached as a user reaches it, through ``ray job submit`` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sonoloop.platform.stack import (
    Component,
    RayConfig,
    StackConfig,
    StackInfo,
    environment,
    processes,
    start,
    stop,
)
from sonoloop.platform.stack.ray_head import clear_temp_folder, temp_folder

RAY = str(Path(sys.executable).with_name("ray"))
JOB = (
    "import os, boto3, ray; ray.init();"
    "names = lambda: [bucket['Name'] for bucket in boto3.client('s3').list_buckets()['Buckets']];"
    "buckets = ray.get(ray.remote(names).remote());"
    "print('cpus', ray.cluster_resources()['CPU'], *buckets)"
)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackInfo]:
    folder = tmp_path_factory.mktemp("head")
    small = RayConfig(num_cpus=3, object_store_bytes=100 * 2**20)
    yield start(StackConfig(folder=folder, components=(Component.S3, Component.RAY), ray=small))
    record = processes.read(folder, "ray")
    assert record is not None
    stop(folder)
    assert processes.members(record) == []
    clear_temp_folder(folder)


@pytest.mark.ray
def test_a_submitted_job_runs_on_the_head_and_sees_s3(head: StackInfo) -> None:
    env = {**os.environ, **environment(head.folder)}
    done = subprocess.run(
        [RAY, "job", "submit", "--", "python", "-c", JOB],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cpus 3.0 sonoloop-archive" in done.stdout


@pytest.mark.ray
def test_without_the_token_nobody_submits_a_job(head: StackInfo) -> None:
    url = f"{head.dashboard_url}/api/jobs/"
    submit = {"entrypoint": "true"}
    assert httpx.get(url, timeout=60, trust_env=False).status_code == 401
    assert httpx.post(url, json=submit, timeout=60, trust_env=False).status_code == 401
    wrong = {"Authorization": f"Bearer {'0' * 64}"}
    assert httpx.post(url, json=submit, headers=wrong, timeout=60, trust_env=False).status_code in (401, 403)


def test_the_temporary_folder_is_short_and_differs_between_folders(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    assert len(str(temp_folder(deep))) <= 40
    assert temp_folder(deep) != temp_folder(tmp_path)
