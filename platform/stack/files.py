"""Files of the state folder: private to the user, replaced whole, locked while somebody works on them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sonoloop.platform.errors import ServiceError

OnProgress = Callable[[str], None]
"""Receives one line of progress; may be called from several threads."""


def private_folder(path: Path) -> Path:
    """Make ``path`` (and its parents) and keep it to its owner, mode 0700; returns the absolute path."""
    path = path.absolute()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` as a whole by ``text``, mode 0600; a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def tail(path: Path, *, num_lines: int = 5) -> str:
    """The last lines of a log, indented; a stand-in where it is missing or empty."""
    if not path.exists():
        return "  (no log)"
    lines = path.read_text(errors="replace")[-20_000:].strip().splitlines()[-num_lines:]
    return "\n".join(f"  {line[:300]}" for line in lines) or "  (the log is empty)"


@contextlib.contextmanager
def locked(folder: Path, *, timeout_s: float, on_progress: OnProgress) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it if this process dies.

    Raises:
        ServiceError: another process held it for ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    with os.fdopen(os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as stream:
        told = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServiceError(
                        f"another sonoloop up or down has worked on {folder} for {timeout_s:.0f} s; "
                        "wait for it or end it, then try again"
                    ) from None
                if not told:
                    on_progress(f"another sonoloop up or down works on {folder}; waiting for it")
                    told = True
                time.sleep(0.2)
        yield
