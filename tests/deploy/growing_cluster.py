"""A Ray cluster that grows: a head that does no work, Ray's own autoscaler, and nodes that it starts.

The nodes are Ray's simulated ones, raylets on this machine; all else is as `ray up` leaves it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

from sonoloop.platform.stack import ports

DEADLINE_S = 120
_PORTS = ("ray", "ray-dashboard", "ray-client", "ray-agent", "ray-metrics", "ray-autoscaler-metrics")
_EMPTY_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)
_STORE_BYTES = 150 * 2**20


@dataclass
class GrowingCluster:
    """The cluster; `start` and `stop` it.

    Attributes:
        folder: Of its files.
        programs: The folder with ``ray`` and ``sonoloop``.
        node_types: What may be added: name -> how it stands in a cluster file.
        job_environment: What jobs find, beside the ordinary variables.
    """

    folder: Path
    programs: Path
    node_types: dict[str, dict[str, Any]]
    job_environment: dict[str, str]
    _head: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _temporary: Path = field(
        default_factory=lambda: Path(f"/tmp/rehearse-{secrets.token_hex(4)}"), init=False
    )
    _ports: dict[str, int] = field(default_factory=dict, init=False)

    @property
    def url(self) -> str:
        """Of the dashboard, which takes jobs."""
        return f"http://127.0.0.1:{self._ports['ray-dashboard']}"

    @property
    def client_environment(self) -> dict[str, str]:
        """Of who submits a job."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
        authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        return {**plain, **authentication, "RAY_API_SERVER_ADDRESS": self.url}

    def start(self) -> None:
        """Bring the head up; nodes come later."""
        (self.folder / "token").write_text(secrets.token_hex(32))
        self._ports = ports.assign(self.folder, _PORTS, {})
        (self.folder / "cluster.json").write_text(json.dumps(self._configuration()))
        environment = {
            **self.client_environment,
            **self.job_environment,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "DASHBOARD_METRIC_PORT": str(self._ports["ray-metrics"]),
            "AUTOSCALER_METRIC_PORT": str(self._ports["ray-autoscaler-metrics"]),
            "OMP_NUM_THREADS": "1",
        }
        del environment["RAY_API_SERVER_ADDRESS"]
        log = (self.folder / "head.log").open("w")
        self._head = subprocess.Popen(
            self._command(), env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._wait()

    def stop(self) -> None:
        """End the head and every node, by process id."""
        for _ in range(20):
            left = self.processes()
            if not left:
                break
            for pid in left:
                _kill(pid)
            time.sleep(0.2)
        if self._head is not None:
            self._head.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def processes(self) -> dict[int, str]:
        """Pid -> command line of everything that belongs to the cluster."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                command = _command_line(entry)
                if str(self._temporary) in command:
                    found[int(entry.name)] = command
        return found

    def node_groups(self) -> list[str]:
        """Of every node that was ever there but the head, told by what it has."""
        token = (self.folder / "token").read_text()
        with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"}, timeout=20) as http:
            answer = http.get(f"{self.url}/api/v0/nodes", params={"detail": True}).raise_for_status()
        nodes = answer.json()["data"]["result"]["result"]
        return [
            name
            for node in nodes
            for name, kind in self.node_types.items()
            if set(kind["resources"]) <= set(node["resources_total"])
        ]

    def _configuration(self) -> dict[str, Any]:
        head = {"resources": {}, "node_config": {}, "max_workers": 0}
        return {
            "cluster_name": "rehearsal",
            "max_workers": 4,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 10,
            "provider": {
                "type": "external",  # by its own name it wants a file that is not in the wheel (2.60)
                "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
                "head_node_id": FAKE_HEAD_NODE_ID,
                "gcs_address": f"{ray.util.get_node_ip_address()}:{self._ports['ray']}",
                "launch_multiple": True,
                "disable_node_updaters": True,
            },
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            "head_node_type": FAKE_HEAD_NODE_TYPE,
            "available_node_types": {FAKE_HEAD_NODE_TYPE: head, **self.node_types},
            **{name: [] for name in _EMPTY_LISTS},
        }

    def _command(self) -> list[str]:
        options = {
            "port": self._ports["ray"],
            "num-cpus": 0,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self._ports["ray-dashboard"],
            "ray-client-server-port": self._ports["ray-client"],
            "dashboard-agent-listen-port": self._ports["ray-agent"],
            "min-worker-port": 0,
            "max-worker-port": 0,
            "object-store-memory": _STORE_BYTES,
            "temp-dir": self._temporary,
            "autoscaling-config": self.folder / "cluster.json",
        }
        switches = ["start", "--head", "--block", "--disable-usage-stats", "--log-color=false"]
        return [
            str(self.programs / "ray"),
            *switches,
            *(f"--{name}={value}" for name, value in options.items()),
        ]

    def _wait(self) -> None:
        token = (self.folder / "token").read_text()
        deadline = time.monotonic() + DEADLINE_S
        with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"}, timeout=5) as http:
            while time.monotonic() < deadline:
                assert self._head is not None
                assert self._head.poll() is None, (self.folder / "head.log").read_text()[-2000:]
                try:
                    if http.get(f"{self.url}/api/jobs/").status_code == httpx.codes.OK:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(0.5)
        raise AssertionError((self.folder / "head.log").read_text()[-2000:])


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
