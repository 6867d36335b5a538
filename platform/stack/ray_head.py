"""A Ray head on this machine: scheduler, dashboard and job server, with token authentication.

Token authentication is no luxury on a loopback stack: Ray 2.60 replaces ``--node-ip-address=127.0.0.1`` by
the machine's own address, and its scheduler (GCS), raylet and agents listen on every interface. Without
a token whoever reaches the machine runs code as us, with our S3 keys. ``RAY_AUTH_MODE`` and
``RAY_AUTH_TOKEN_PATH`` go to every client through the stack's environment; both are always set, since Ray
otherwise decides by what it finds in ``~/.ray``.

Jobs inherit the head's environment: S3 and Label Studio are configured for them without a secret in a job's
``runtime_env``, which the dashboard would show. Never end it with ``ray stop``: that ends every Ray of the
machine.
Measured with Ray 2.60 on 2 cores: 5-10 s to the first answer of the job server.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.stack import ports, processes
from sonoloop.platform.stack.files import OnProgress, write_private

logger = logging.getLogger(__name__)

NAME = "ray"
PORT_NAMES = ("ray", "ray-dashboard", "ray-client", "ray-agent", "ray-metrics", "ray-autoscaler-metrics")
_MAX_TEMP_LENGTH = 40
"""Ray adds up to 65 characters to a temporary folder for its sockets; Linux allows 107 in all (unix(7))."""


class RayConfig(BaseModel):
    """How the local Ray head runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int | None = Field(
        default=None, ge=1024, le=65_535, description="null: kept, or chosen at first start"
    )
    dashboard_port: int | None = Field(
        default=None, ge=1024, le=65_535, description="as port, for the dashboard"
    )
    num_cpus: int = Field(
        default=4, ge=1, description="logical: a pipeline wants more than 2 to be scheduled"
    )
    num_gpus: int | None = Field(default=None, ge=0, description="null: what Ray finds")
    object_store_bytes: int = Field(
        default=2**30, ge=80 * 2**20, description="size of the object store, bytes"
    )


def token_file(folder: Path) -> Path:
    """Where the cluster's token lies, mode 0600."""
    return folder / "ray-token"


def load_or_create_token(folder: Path) -> Path:
    """The path of the folder's token; generated at the first call."""
    path = token_file(folder)
    if not path.exists():
        write_private(path, secrets.token_hex(32))
    return path


def address(assigned: Mapping[str, int]) -> str:
    """What ``ray.init`` connects to."""
    return f"127.0.0.1:{assigned['ray']}"


def dashboard_url(assigned: Mapping[str, int]) -> str:
    """The dashboard and job server."""
    return f"http://127.0.0.1:{assigned['ray-dashboard']}"


def environment(folder: Path, assigned: Mapping[str, int]) -> dict[str, str]:
    """What a driver, a job's submitter and Ray itself need to take part in this cluster."""
    return {
        "RAY_ADDRESS": address(assigned),
        "RAY_API_SERVER_ADDRESS": dashboard_url(assigned),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(load_or_create_token(folder)),
    }


def temp_folder(folder: Path) -> Path:
    """Ray's temporary folder: short, since its sockets live there, and the same for the same ``folder``."""
    digest = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    name = f"sonoloop-ray-{os.getuid()}-{digest}"
    parent = Path(tempfile.gettempdir())
    return (parent if len(str(parent / name)) <= _MAX_TEMP_LENGTH else Path("/tmp")) / name


def clear_temp_folder(folder: Path) -> None:
    """Remove the logs and sockets of earlier heads of this ``folder``, which must have ended.

    Raises:
        ServiceError: the place is taken by somebody else's file.
    """
    path = temp_folder(folder)
    if not os.path.lexists(path):
        return
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise ServiceError(f"{path} belongs to somebody else; Ray needs that folder, remove it")
    shutil.rmtree(path)


def find_binary() -> Path:
    """The ``ray`` program beside our Python.

    Raises:
        ConfigError: it is not installed.
    """
    program = Path(sys.executable).with_name("ray")
    if not program.exists():
        raise ConfigError(
            f"the program {program} is missing; "
            f"install it with: {sys.executable} -m pip install 'ray[serve]>=2.60,<2.61'"
        )
    return program


def _arguments(folder: Path, config: RayConfig, assigned: Mapping[str, int]) -> list[str]:
    options: dict[str, object] = {
        "port": assigned["ray"],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": assigned["ray-dashboard"],
        "include-dashboard": "true",
        "ray-client-server-port": assigned["ray-client"],
        "dashboard-agent-listen-port": assigned["ray-agent"],
        # 0: any free port. The default range is shared by all Rays of a machine, and they collide in it.
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": config.num_cpus,
        "object-store-memory": config.object_store_bytes,
        "temp-dir": temp_folder(folder),
    }
    if config.num_gpus is not None:
        options["num-gpus"] = config.num_gpus
    switches = ["start", "--head", "--block", "--disable-usage-stats", "--log-color=false"]
    return [str(find_binary()), *switches, *(f"--{name}={value}" for name, value in options.items())]


def _head_environment(
    folder: Path, assigned: Mapping[str, int], job_environment: Mapping[str, str]
) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    merged = {**inherited, **job_environment, **environment(folder, assigned)}
    del merged["RAY_ADDRESS"]  # `ray start --head` makes a cluster; jobs get theirs from the job server
    # A job's `python` and `sonoloop` are the ones that the head's PATH finds.
    merged["PATH"] = f"{find_binary().parent}:{os.environ.get('PATH', os.defpath)}"
    merged["DASHBOARD_METRIC_PORT"] = str(assigned["ray-metrics"])
    merged["AUTOSCALER_METRIC_PORT"] = str(assigned["ray-autoscaler-metrics"])
    return merged


def _probe(assigned: Mapping[str, int], token: str) -> str | None:
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(
            trust_env=False, timeout=5, headers=headers, base_url=dashboard_url(assigned)
        ) as http:
            jobs = http.get("/api/jobs/")
            nodes = http.get("/nodes", params={"view": "summary"})
    except httpx.HTTPError:
        return "the dashboard is not listening yet"
    if jobs.status_code != httpx.codes.OK or nodes.status_code != httpx.codes.OK:
        return f"the job server answers {jobs.status_code}, the node list {nodes.status_code}"
    states = [node.get("raylet", {}).get("state") for node in nodes.json()["data"]["summary"]]
    return None if "ALIVE" in states else "no node is alive yet"


def start(
    folder: Path,
    config: RayConfig,
    assigned: Mapping[str, int],
    *,
    job_environment: Mapping[str, str],
    timeout_s: float,
    on_progress: OnProgress,
) -> None:
    """Start the head, or reuse the one that runs.

    Args:
        folder: The state folder.
        config: Size of the head.
        assigned: Ports by name, `PORT_NAMES` among them.
        job_environment: Variables that the head, and so every job, gets on top of ours.
        timeout_s: How long the job server may take to answer, seconds.
        on_progress: Gets a line now and then.

    Raises:
        ConfigError: the program is missing or a port is in use.
        ServiceError: it does not start.
    """
    token = load_or_create_token(folder).read_text()

    def launch() -> None:
        argv = _arguments(folder, config, assigned)
        ports.require_free(folder, {name: assigned[name] for name in PORT_NAMES})
        clear_temp_folder(folder)
        on_progress("Ray: starting")
        env = _head_environment(folder, assigned, job_environment)
        processes.spawn(folder, NAME, argv, env=env, cwd=Path.cwd())

    reused = processes.bring_up(
        folder,
        NAME,
        "Ray",
        launch=launch,
        probe=lambda: _probe(assigned, token),
        timeout_s=timeout_s,
        on_progress=on_progress,
    )
    on_progress(f"Ray: {'already runs' if reused else 'ready'} at {address(assigned)}")
