"""A verb submitted as a Ray job, with its configuration on S3, against a head of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conftest import outside_ray

from sonoloop.platform.stack import Component, StackConfig, environment, start, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a stack with S3 and a Ray head, apart from the session's own Ray."""
    folder = tmp_path_factory.mktemp("head")
    start(StackConfig(folder=folder, components=(Component.S3, Component.RAY)))
    yield {**outside_ray(), **environment(folder)}
    stop(folder)


def test_index_and_status_run_as_ray_jobs_with_their_configuration_on_s3(head: dict[str, str]) -> None:
    bucket = "sonoloop-workspace"
    _write_inputs(head, bucket)
    for verb in ("init", "index"):
        assert '"' in _submitted(head, f"sonoloop {verb} --config s3://{bucket}/sonoloop.toml --json")
    output = _submitted(head, f"sonoloop status --config s3://{bucket}/sonoloop.toml --json")
    status = json.loads(next(line for line in output.splitlines() if line.startswith('{"workspace"')))
    assert (status["objects"], status["cases"]) == (5, 3)
    assert status["objects_rejected"] == {"phi-suspected": 2}


def test_a_submitted_job_that_fails_says_why_and_fails(head: dict[str, str]) -> None:
    done = _submit(head, "sonoloop status --config s3://sonoloop-workspace/absent.toml")
    assert done.returncode != 0
    assert "no configuration at s3://sonoloop-workspace/absent.toml" in done.stdout + done.stderr


def _write_inputs(head: dict[str, str], bucket: str) -> None:
    """The configuration and the real ultrasound files of pydicom's wheel, into S3."""
    script = (
        "import sys\n"
        "from sonoloop.platform.phantoms.extras import real_examples\n"
        "from sonoloop.platform.workspace import S3Config, store_of\n"
        "store = store_of(sys.argv[1], S3Config())\n"
        "store.write_bytes(sys.argv[2].encode(), 'sonoloop.toml')\n"
        "[store.write_bytes(data, 'archive', key) for key, data in real_examples()]\n"
    )
    text = f'workspace = "s3://{bucket}/workspace"\narchive = "s3://{bucket}/archive"\n'
    subprocess.run([sys.executable, "-c", script, f"s3://{bucket}", text], env=head, check=True)


def _submit(head: dict[str, str], command: str) -> subprocess.CompletedProcess[str]:
    ray = Path(sys.executable).with_name("ray")
    return subprocess.run(
        [str(ray), "job", "submit", "--", *command.split()],
        env=head,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _submitted(head: dict[str, str], command: str) -> str:
    done = _submit(head, command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
