"""Real services for all tests, each started lazily once per session and stopped by process id at the end.

- ``stack_s3``: SeaweedFS; ``stack_s3.bucket()`` gives a fresh bucket.
- ``stack_labelstudio``: Label Studio beside that S3; the first boot takes 30-60 s.
- ``ray_cluster``: one local Ray with 4 logical CPUs in this process.
"""

from __future__ import annotations

import base64
import io
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from PIL import Image

from sonoloop.platform.stack import Component, StackConfig, StackInfo, environment, info, start, stop
from sonoloop.platform.stack import login as labelstudio_login
from sonoloop.platform.stack import s3 as stack_s3_module
from sonoloop.platform.stack.labelstudio import Account, account_file

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SERVICES = {"stack_folder", "labelstudio", "browser"}
RAY = {"ray_cluster", "ray"}
"""Fixtures and marks of tests that need what a process has one of."""


def pytest_configure(config: pytest.Config) -> None:
    """Give this session's Ray a token of its own, before any test module can import ray.

    Ray 2.60 listens on every interface, so authentication stays on; and it reads the mode once, when its
    library is loaded.
    """
    patch, folder = pytest.MonkeyPatch(), tempfile.TemporaryDirectory(prefix="sonoloop-test-")
    config.add_cleanup(folder.cleanup)
    config.add_cleanup(patch.undo)
    token = Path(folder.name) / "token"
    token.write_text(secrets.token_hex(32))
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    patch.setenv("SONOLOOP_CACHE_DIR", folder.name)
    # Ray Train's report() waits for a poll, every 2 s unless told otherwise.
    patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Metrics of a worker that lives for less than the 10 s between its reports never come out.
    patch.setenv("RAY_metrics_report_interval_ms", "1000")
    # Ray's workers are nice by 15: beside the other process of the tests they would wait for their core.
    patch.setenv("RAY_worker_niceness", "0")
    # A tenth of a core goes into looking for log files that no test reads.
    patch.setenv("LOG_NAME_UPDATE_INTERVAL_S", "10")
    # Threads of two processes on two cores spin for each other.
    patch.setenv("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``-n 2 --dist loadgroup`` what needs the same services stays in one process."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """What takes long is spread: the shared Ray in one process, a second Label Studio and chaos in the other.

    Chaos has an S3 and a Ray of its own.
    """
    if item.path.parent.name == "chaos":
        return "chaos"
    needs = {*getattr(item, "fixturenames", ()), *(mark.name for mark in item.iter_markers())}
    if needs & RAY:
        return "ray"
    return "services" if needs & SERVICES else item.path.name


@dataclass(frozen=True)
class S3Stack:
    """A running S3 with the right keys."""

    folder: Path
    endpoint: str
    env: dict[str, str]
    client: S3Client
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"test-{next(self._numbers):03d}-{secrets.token_hex(3)}"
        self.client.create_bucket(Bucket=name)
        return name


@dataclass(frozen=True)
class LabelStudioStack:
    """A running Label Studio with its one account."""

    folder: Path
    url: str
    username: str
    password: str = field(repr=False)
    api_key: str = field(repr=False)
    env: dict[str, str] = field(repr=False)

    def http(self) -> httpx.Client:
        """A client that is logged in, good for five minutes."""
        access = labelstudio_login.access_token(self.url, self.api_key)
        headers = {"Authorization": f"Bearer {access}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)


def outside_ray() -> dict[str, str]:
    """This environment for a process with a Ray of its own: without what joins, or opens, the session's."""
    kept = {"RAY_worker_niceness"}
    return {name: v for name, v in os.environ.items() if name in kept or not name.startswith("RAY_")}


def started(folder: Path, *components: Component) -> StackInfo:
    """The stack of ``folder`` with these components up, however busy the machine is."""
    return start(StackConfig(folder=folder, components=components, timeout_s=800))


@pytest.fixture(scope="session")
def stack_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """State folder of the session's stack; whatever was started in it is stopped."""
    folder = tmp_path_factory.mktemp("stack")
    yield folder
    stop(folder)


@pytest.fixture(scope="session")
def stack_s3(stack_folder: Path) -> S3Stack:
    """One real S3 for the session."""
    endpoint = started(stack_folder, Component.S3).s3_endpoint
    assert endpoint is not None
    client = stack_s3_module.client(endpoint, stack_s3_module.load_or_create_keys(stack_folder))
    return S3Stack(folder=stack_folder, endpoint=endpoint, env=environment(stack_folder), client=client)


@pytest.fixture(scope="session")
def stack_labelstudio(stack_folder: Path, stack_s3: S3Stack) -> LabelStudioStack:
    """One real Label Studio for the session; it can reach ``stack_s3``."""
    started(stack_folder, Component.S3, Component.LABELSTUDIO)
    account = Account.model_validate_json(account_file(stack_folder).read_text())
    url = info(stack_folder).labelstudio_url
    assert url is not None
    assert account.api_key is not None
    env = environment(stack_folder)
    return LabelStudioStack(stack_folder, url, account.username, account.password, account.api_key, env)


@pytest.fixture(scope="session")
def ray_cluster(stack_s3: S3Stack) -> Iterator[str]:
    """One local Ray in this process, 4 logical CPUs, whose workers know the S3 keys; gives its address."""
    import ray

    patch = pytest.MonkeyPatch()
    for name, value in stack_s3.env.items():
        patch.setenv(name, value)  # workers inherit what Ray is started with
    temporary = Path(f"/tmp/sonoloop-test-ray-{os.getpid()}")  # short: Ray's sockets live there
    context = ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        _temp_dir=str(temporary),
    )
    yield str(context.address_info["gcs_address"])
    ray.shutdown()
    patch.undo()
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Makes an image file of seeded noise."""

    def make(kind: str = "PNG", size: tuple[int, int] = (96, 64), seed: int = 0) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    return make


@pytest.fixture(scope="session")
def data_uri() -> Callable[[bytes], str]:
    """Writes bytes as a data URI."""
    return lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}"
