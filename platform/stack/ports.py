"""Loopback ports: chosen once per state folder and kept, so that addresses survive a restart.

Ports come from 20000..22767; SeaweedFS puts each gRPC port 10000 above its HTTP port. The range stays clear
of Ray's worker ports (10002..19999) and, with its mirror, of Linux's ephemeral ports (32768..60999).
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.stack.files import write_private

GRPC_OFFSET = 10_000
_FIRST, _LAST = 20_000, 22_767
_FILE = "ports.json"


def is_free(port: int) -> bool:
    """Whether nobody listens on ``port``, neither on loopback nor on every address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(taken: Collection[int] = ()) -> int:
    """A port that is free and stays so until somebody takes it: the system gives none of these by itself.

    Raises:
        ConfigError: none is left.
    """
    candidates = [port for port in range(_FIRST, _LAST + 1) if port not in taken]
    # Not a seeded choice: two stacks that start at the same moment must not pick the same ports.
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if is_free(port) and is_free(port + GRPC_OFFSET):
            return port
    raise ConfigError(f"no free port is left in {_FIRST}..{_LAST}; stop something that listens there")


def recorded(folder: Path) -> dict[str, int]:
    """The ports of this folder by name; empty before the first start."""
    path = folder / _FILE
    return (
        {str(name): int(port) for name, port in json.loads(path.read_text()).items()} if path.exists() else {}
    )


def assign(folder: Path, names: tuple[str, ...], wanted: Mapping[str, int | None]) -> dict[str, int]:
    """Ports for ``names``: the wanted one, else the recorded one, else a free one; recorded for next time.

    Raises:
        ConfigError: no free port is left, or one port was asked for twice.
    """
    ports = recorded(folder)
    ports.update({name: port for name in names if (port := wanted.get(name)) is not None})
    for name in names:
        if name not in ports:
            ports[name] = free_port(ports.values())
    chosen = [ports[name] for name in names]
    if len(set(chosen)) != len(chosen):
        raise ConfigError(f"the ports of {', '.join(names)} must differ, got {chosen}")
    write_private(folder / _FILE, json.dumps(ports, indent=1))
    return ports


def require_free(folder: Path, ports: Mapping[str, int], *, patience_s: float = 5) -> None:
    """Refuse to start a service whose ports somebody else holds.

    A killed process is a zombie before the kernel has closed its sockets, so a busy port gets a little time.

    Raises:
        ConfigError: names the port and the ways out.
    """
    deadline = time.monotonic() + patience_s
    for name, port in ports.items():
        while not is_free(port):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"port in use: 127.0.0.1:{port}, wanted for {name}, is held by another program. Stop "
                    f"that program, ask for another port, or delete {folder / _FILE} to have free ones chosen"
                )
            time.sleep(0.05)
