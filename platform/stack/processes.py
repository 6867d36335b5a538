"""Processes that outlive the command that started them, known by more than a pid.

A pid file holds the pid, the kernel's start time of that process and the machine's boot id; a pid that was
given to somebody else since, or written before a reboot, matches nothing. Each process also carries
a random mark in its environment, which its children inherit: what a killed parent leaves behind is found by
that mark.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.stack.files import OnProgress, private_folder, tail, write_private

logger = logging.getLogger(__name__)

Probe = Callable[[], str | None]
"""Asks a service whether it works: ``None`` when it does, else why not yet."""

_MARK = "SONOLOOP_PROCESS_MARK"
_MAX_LOG_BYTES = 10_000_000
_PROGRESS_EVERY_S = 5.0
_children: dict[int, subprocess.Popen[bytes]] = {}  # ours, kept to reap them when they end


class _EndedError(ServiceError):
    """The process ended before it worked."""


class ProcessRecord(BaseModel):
    """What a pid file says about one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int = Field(gt=1)
    start_ticks: int = Field(
        description="clock ticks from boot to the start of the process (proc(5), stat field 22)"
    )
    boot_id: str = Field(description="of the boot those ticks count from")
    mark: str = Field(description="value of the marking environment variable")


class _Seen(BaseModel):
    """A process as ``/proc`` shows it."""

    model_config = ConfigDict(frozen=True)

    pid: int
    state: str
    session: int
    start_ticks: int


def _look(pid: int) -> _Seen | None:
    try:
        # Field 2, the command, is in parentheses and may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Seen(pid=pid, state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _reap() -> None:
    for pid in [pid for pid, child in list(_children.items()) if child.poll() is not None]:
        _children.pop(pid, None)


def _runs(seen: _Seen) -> bool:
    _reap()
    now = _look(seen.pid)
    return now is not None and now.start_ticks == seen.start_ticks and now.state not in "ZX"


def pid_file(folder: Path, name: str) -> Path:
    """Where the record of the process ``name`` lies."""
    return folder / "run" / f"{name}.json"


def log_file(folder: Path, name: str) -> Path:
    """Where the process ``name`` writes its output."""
    return folder / "logs" / f"{name}.log"


def read(folder: Path, name: str) -> ProcessRecord | None:
    """The recorded process, or ``None`` where there is no record or none that can be read."""
    try:
        return ProcessRecord.model_validate_json(pid_file(folder, name).read_text())
    except (FileNotFoundError, ValidationError):
        return None


def is_alive(record: ProcessRecord | None) -> bool:
    """Whether exactly the recorded process still runs; a zombie or a successor with its pid is not it."""
    return record is not None and _leader(record) is not None


def _leader(record: ProcessRecord) -> _Seen | None:
    _reap()
    seen = _look(record.pid)
    if seen is None or seen.start_ticks != record.start_ticks or record.boot_id != _boot_id():
        return None
    return seen if seen.state not in "ZX" else None


def spawn(folder: Path, name: str, argv: list[str], *, env: Mapping[str, str], cwd: Path) -> ProcessRecord:
    """Start ``argv`` detached, in a session of its own, with its output in `log_file`.

    Raises:
        ServiceError: the program cannot be executed.
    """
    private_folder(folder / "run")
    log = private_folder(folder / "logs") / f"{name}.log"
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    mark = secrets.token_hex(16)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            argv,
            env={**env, _MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            umask=0o077,
        )
    except OSError as err:
        raise ServiceError(f"{name} cannot be started: {argv[0]}: {err.strerror}") from err
    finally:
        os.close(descriptor)
    _children[child.pid] = child
    seen = _look(child.pid)
    if seen is None:
        raise ServiceError(f"{name} ended at once; its log {log} ends:\n{tail(log)}")
    record = ProcessRecord(pid=child.pid, start_ticks=seen.start_ticks, boot_id=_boot_id(), mark=mark)
    write_private(pid_file(folder, name), record.model_dump_json())
    logger.info("%s runs as process %d", name, child.pid)
    return record


def _carries(pid: int, mark: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or another user's
        return False
    return f"{_MARK}={mark}".encode() in environment.split(b"\0")


def members(record: ProcessRecord) -> list[_Seen]:
    """The recorded process, its session and everything that carries its mark, as far as they run."""
    if record.boot_id != _boot_id():
        return []
    leader = _leader(record)
    found = []
    for entry in Path("/proc").iterdir():
        seen = _look(int(entry.name)) if entry.name.isdigit() else None
        if seen is None or seen.state in "ZX":
            continue
        in_session = leader is not None and seen.session == record.pid
        if in_session or _carries(seen.pid, record.mark):
            found.append(seen)
    return found


def _signal(seen: _Seen, number: signal.Signals) -> None:
    try:
        # A file descriptor names the process for good: its pid cannot pass to another in between.
        descriptor = os.pidfd_open(seen.pid)
    except ProcessLookupError:
        return
    try:
        if _runs(seen):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _gone(processes: list[_Seen], *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(_runs(seen) for seen in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def stop(folder: Path, name: str, *, grace_s: float = 10.0) -> bool:
    """End the recorded process with its children: TERM, then KILL after ``grace_s`` seconds.

    Returns:
        Whether anything ran. A record that names nobody, or somebody else by now, is only removed.

    Raises:
        ServiceError: a process outlives KILL (it hangs in the kernel).
    """
    record = read(folder, name)
    running = members(record) if record else []
    if record and running:
        first = [seen for seen in running if seen.pid == record.pid] or running
        for seen in first:
            _signal(seen, signal.SIGTERM)
        _gone(first, within_s=grace_s)
        rest = {(seen.pid, seen.start_ticks): seen for seen in [*running, *members(record)]}
        left = list(rest.values())
        if not _gone(left, within_s=0.5):
            for seen in left:
                _signal(seen, signal.SIGKILL)
        if not _gone(left, within_s=10):
            raise ServiceError(
                f"{name} (process {record.pid}) does not end; look at it with ps, then try again"
            )
    pid_file(folder, name).unlink(missing_ok=True)
    return bool(running)


def bring_up(
    folder: Path,
    name: str,
    title: str,
    *,
    launch: Callable[[], None],
    probe: Probe,
    timeout_s: float,
    on_progress: OnProgress,
) -> bool:
    """Have a service work: the recorded one if it lives, else a new one from ``launch``.

    Returns:
        Whether the recorded one was reused.

    Raises:
        ServiceError: as `wait_until_works`.
    """
    if is_alive(read(folder, name)):
        try:
            wait_until_works(folder, name, title, probe, timeout_s=timeout_s, on_progress=on_progress)
            return True
        except _EndedError:  # it was already dying: killed a moment ago
            on_progress(f"{title}: the running one just ended")
    stop(folder, name)
    launch()
    wait_until_works(folder, name, title, probe, timeout_s=timeout_s, on_progress=on_progress)
    return False


def wait_until_works(
    folder: Path, name: str, title: str, probe: Probe, *, timeout_s: float, on_progress: OnProgress
) -> None:
    """Probe a started process until it works, with a line of progress every five seconds.

    Raises:
        ServiceError: it ended, or did not work within ``timeout_s``; names the log and shows its end.
    """
    record, log, begin = read(folder, name), log_file(folder, name), time.monotonic()
    next_line_s = _PROGRESS_EVERY_S
    while (reason := probe()) is not None:
        waited_s = time.monotonic() - begin
        if not is_alive(record):
            raise _EndedError(f"{title} ended while it started; its log {log} ends:\n{tail(log)}")
        if waited_s > timeout_s:
            raise ServiceError(
                f"{title} did not answer within {timeout_s:.0f} s ({reason}); "
                f"its log {log} ends:\n{tail(log)}"
            )
        if waited_s > next_line_s:
            on_progress(f"{title}: still starting after {waited_s:.0f} s ({reason})")
            next_line_s += _PROGRESS_EVERY_S
        time.sleep(0.2)
