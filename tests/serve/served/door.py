"""A served door for callers that mean harm: raw bytes in, status out, and what its processes weigh."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
import psutil

from sonoloop.platform import registry
from sonoloop.platform.logs import LogConfig
from sonoloop.platform.registry import Aliases
from sonoloop.platform.stack.ports import free_port
from sonoloop.platform.workspace import S3Config, store_of
from sonoloop.serve.config import ServeConfig, ServeSettings

API_KEY = "test-key-0123456789abcdef"
COMPLETIONS = "/v1/chat/completions"
PATIENCE_S = 60.0
"""For what comes at once, or after a second or two, on a machine that is not busy."""
AUTH = f"Authorization: Bearer {API_KEY}\r\n"


@dataclass(frozen=True)
class Door:
    """A served application.

    Attributes:
        url: Its address.
        version: What answers, ``<name>/<version>``.
        workspace: Folder of its workspace.
        logs: Folder of Ray's logs.
    """

    url: str
    version: str
    workspace: Path
    logs: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(
        self, content: bytes | Iterator[bytes], path: str = COMPLETIONS, **headers: str
    ) -> httpx.Response:
        all_headers = {"Authorization": f"Bearer {API_KEY}", **headers}
        return httpx.post(self.url + path, content=content, headers=all_headers, timeout=60, trust_env=False)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, sent: bytes, num_answers: int = 1) -> bytes:
        """All that comes back for some bytes; waits for so many answers."""
        with self.connect() as line:
            line.sendall(sent)
            return heard(line, num_answers=num_answers)

    def is_alive(self) -> bool:
        return httpx.get(f"{self.url}/healthz", timeout=10, trust_env=False).status_code == 200

    @cached_property
    def processes(self) -> list[psutil.Process]:
        """Its proxy and its gateway: those that meet callers."""
        names = "ProxyActor", "Gateway"
        ours = psutil.Process().children(recursive=True)
        return [process for process in ours if any(name in " ".join(process.cmdline()) for name in names)]

    def rss_mb(self) -> float:
        """Resident memory of these processes, MB."""
        return sum(process.memory_info().rss for process in self.processes) / 2**20


@contextmanager
def peak_of(door: Door) -> Iterator[list[float]]:
    """Weighs a door again and again; its largest weights stand in the list at the end."""
    weights, is_over = [door.rss_mb()], threading.Event()

    def weigh() -> None:
        while not is_over.wait(0.05):
            weights.append(door.rss_mb())

    thread = threading.Thread(target=weigh)
    thread.start()
    try:
        yield weights
    finally:
        is_over.set()
        thread.join()


def heard(line: socket.socket, patience_s: float = PATIENCE_S, num_answers: int = 1) -> bytes:
    """What comes on a connection, until its end or half a second of silence after so many answers."""
    line.settimeout(patience_s)
    said = b""
    try:
        while part := line.recv(65536):
            said += part
            if len(statuses(said)) >= num_answers:
                line.settimeout(0.5)
    except (TimeoutError, ConnectionResetError):
        pass
    return said


def statuses(answers: bytes) -> list[int]:
    """Status codes of all answers on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def is_closed_within(line: socket.socket, seconds: float) -> bool:
    """Whether the other side hangs up in time."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        line.settimeout(left)
        try:
            if not line.recv(65536):
                return True
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
    return False


@contextmanager
def served_door(model_folder: Path, folder: Path, config: ServeConfig) -> Iterator[Door]:
    """Serve a model of a new workspace in the Ray that runs."""
    import ray

    from sonoloop.serve.running import served

    workspace = store_of(str(folder), S3Config())
    version = registry.publish(workspace, model_folder, "untrained", lineage={})
    registry.set_aliases(workspace, "untrained", {"champion": version}, expected=Aliases())
    settings = ServeSettings(
        workspace=str(folder),
        model=registry.ModelConfig(name="untrained"),
        serve=config.model_copy(update={"port": free_port()}),
        log=LogConfig(format="json"),  # which says more: every answer has its lines
    )
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    with served(settings, version, API_KEY) as url:
        yield Door(url, version, folder, logs)
