"""Claims: who works on something, told by a small object that its holder keeps writing.

A claim is taken by a conditional put, so of two takers one wins. Its holder writes it anew every
`BEAT_EVERY_S`; one that was not written for `STALE_AFTER_S` may be taken over, and so may that of a process
of this machine that is gone. Ages are taken by the store's clock alone. A holder that finds its claim taken,
after a long sleep, is interrupted.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sonoloop.platform.errors import ConflictError, StorageError
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

BEAT_EVERY_S = 15.0
STALE_AFTER_S = 90.0
LOST = signal.SIGUSR1


class Holder(BaseModel):
    """Who holds a claim."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    owner: str
    host: str
    machine: str
    pid: int
    process: str
    since: datetime
    released: bool = False

    @classmethod
    def myself(cls) -> Self:
        """This process, from now on."""
        return cls(
            owner=secrets.token_hex(8),
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            process=_started(os.getpid()) or "",
            since=datetime.now(UTC),
        )

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that does not run any more."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.process


class HeldError(ConflictError):
    """Somebody alive holds the claim.

    Args:
        what: What is claimed.
        holder: Who holds it.
        age_s: Seconds since the last sign of life.
    """

    def __init__(self, what: str, holder: Holder, age_s: float) -> None:
        super().__init__(
            f"{what} is held by process {holder.pid} on {holder.host} since {holder.since:%Y-%m-%d %H:%M:%S} "
            f"UTC, last sign of life {age_s:.0f} s ago; if that process is gone, the same command takes it "
            f"over {STALE_AFTER_S:.0f} s after that"
        )
        self.holder = holder
        self.age_s = age_s


class Claim:
    """A claim held for the length of a ``with`` block.

    Args:
        workspace: Where the claim lies.
        parts: Its place.

    Raises:
        HeldError: somebody alive holds it.
        StorageError: the store refuses.
    """

    def __init__(self, workspace: Store, *parts: str) -> None:
        self._workspace, self._parts = workspace, parts
        self._holder = Holder.myself()
        self._stop = threading.Event()
        self._beater = threading.Thread(target=self._beat, daemon=True)
        self._handler_before: Any = None
        found = workspace.get_control(*parts)
        if found is not None:
            _refuse_live(workspace, found[0], parts)
        try:
            self._put(self._holder, None if found is None else found[1])
        except ConflictError:
            other = read_holder(workspace, *parts)
            if other is None:
                raise
            raise HeldError("/".join(parts), other, 0.0) from None

    def __enter__(self) -> Self:
        """Keep the claim alive from here on; to be entered in the main thread, which is told of its loss.

        A signal of its own does that: one that a shell may have told us to ignore, as it does with SIGINT of
        what runs in the background, would not.
        """
        self._handler_before = signal.signal(LOST, _stop_work)
        self._beater.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the claim up; whoever comes next takes it at once."""
        self._stop.set()
        self._beater.join()
        signal.signal(LOST, self._handler_before)
        try:
            self._renew(self._holder.model_copy(update={"released": True}))
        except ConflictError:
            logger.info("the claim is another process's by now")
        except StorageError:  # it goes stale by itself
            logger.warning("a claim could not be given up; it ends %.0f s from now", STALE_AFTER_S)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_EVERY_S):
            try:
                self._renew(self._holder)
            except ConflictError:
                signal.pthread_kill(threading.main_thread().ident or 0, LOST)
                return
            except StorageError as err:  # the next beat may come through
                logger.warning("no sign of life could be written (%s)", type(err).__name__)

    def _renew(self, holder: Holder) -> None:
        """Write the claim again.

        Raises:
            ConflictError: it is not ours any more.
        """
        found = self._workspace.get_control(*self._parts)
        if found is None or _holder(found[0], self._parts).owner != self._holder.owner:
            raise ConflictError("the claim was taken over")
        self._put(holder, found[1])

    def _put(self, holder: Holder, version: str | None) -> None:
        data = holder.model_dump_json(indent=2).encode()
        self._workspace.put_control(data, *self._parts, version=version)


def _stop_work(*_: object) -> None:
    raise ConflictError(
        "this run was taken over by another process, after this one had given no sign of life for long; "
        "nothing is lost, and what both drafted counts once"
    )


def is_held(workspace: Store, *parts: str) -> bool:
    """Whether somebody alive holds a claim."""
    found = workspace.get_control(*parts)
    try:
        if found is not None:
            _refuse_live(workspace, found[0], parts)
    except HeldError:
        return True
    return False


def read_holder(workspace: Store, *parts: str) -> Holder | None:
    """Who holds or held a claim; None where nobody ever did.

    Raises:
        StorageError: the object is no claim of this version.
    """
    found = workspace.get_control(*parts)
    return None if found is None else _holder(found[0], parts)


def _refuse_live(workspace: Store, data: bytes, parts: tuple[str, ...]) -> None:
    holder = _holder(data, parts)
    if holder.released or holder.is_gone:
        return
    age_s = _age_s(workspace, *parts)
    if age_s < STALE_AFTER_S:
        raise HeldError("/".join(parts[:-1]), holder, age_s)


def _holder(data: bytes, parts: tuple[str, ...]) -> Holder:
    try:
        return Holder.model_validate_json(data)
    except ValidationError as err:
        raise StorageError(
            f"{'/'.join(parts)} is no claim of this version of sonoloop; remove it if nothing runs"
        ) from err


def _age_s(workspace: Store, *parts: str) -> float:
    """Seconds since the claim was written, by the store's own clock."""
    clock = (*parts[:-1], f"clock-{secrets.token_hex(4)}")
    workspace.write_bytes(b"", *clock)
    try:
        now, then = workspace.written_at(*clock), workspace.written_at(*parts)
    finally:
        workspace.remove(*clock)
    return (now - then).total_seconds() if now and then else 0.0


def _machine() -> str:
    """This boot of this machine and this container of it; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process began, in the system's own ticks; None where there is no such process."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = line.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
