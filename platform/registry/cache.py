"""A version's files on this machine: fetched once, resumed where that was cut off, looked at before each use.

Beside the folder of a version lie ``.<version>.json`` (size, times and inode of each file, as they were when
its hash was right), ``.<version>.partial/`` while it is fetched, and a lock, so that of many processes one
fetches and the others wait.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from sonoloop.platform.errors import CheckpointError, StorageError
from sonoloop.platform.registry.contents import check_contents
from sonoloop.platform.transfer import FILES_AT_ONCE, download, file_digest
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)


def cache_root() -> Path:
    """``SONOLOOP_CACHE_DIR`` (a node's fast local disk, say), else the user's cache folder."""
    own = os.environ.get("SONOLOOP_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own or f"{base}/sonoloop", "models")


def local_copy(workspace: Store, place: tuple[str, str, str], manifest: Mapping[str, str]) -> Path:
    """The folder with a version's files, every one of them proven by hash.

    Args:
        workspace: Where they are fetched from.
        place: Of the version in it.
        manifest: File name to SHA-256.

    Raises:
        CheckpointError: a file is missing in the workspace or differs from its hash, or may not be let in.
        StorageError: the store refuses, or this machine's disk is full.
    """
    target = cache_root().joinpath(*place[1:])
    if _is_intact(target, manifest):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_beside(target, "lock")):
        if _is_intact(target, manifest):  # another process was first
            return target
        if target.is_dir():
            logger.warning("the copy of %s on this machine was altered; fetching it again", "/".join(place))
            shutil.rmtree(target)
        _fill(workspace, place, manifest, target)
    return target


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this machine at a time; the lock of one that dies is free."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_intact(target: Path, manifest: Mapping[str, str]) -> bool:
    """Whether exactly the manifest's files are there, unchanged: by stamps, by hash where these differ."""
    if not target.is_dir():
        return False
    stamps = _stamps(target)
    if set(stamps) != set(manifest):
        return False
    with suppress(OSError, ValueError):
        if json.loads(_beside(target, "json").read_bytes()) == stamps:
            return True
    if any(file_digest(target / name) != expected for name, expected in manifest.items()):
        return False
    _record(target, stamps)
    return True


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Size, time of change, of the inode's change and the inode: the third cannot be set back by hand."""
    found = {path.name: path.stat() for path in sorted(folder.iterdir())}
    return {n: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for n, s in found.items()}


def _record(target: Path, stamps: Mapping[str, list[int]]) -> None:
    """Keep what was proven; where the folder is read-only, it is proven anew each time."""
    record = _beside(target, "json")
    partial = record.with_name(f"{record.name}.{os.getpid()}")
    with suppress(OSError):
        partial.write_text(json.dumps(stamps))
        partial.replace(record)


def _fill(workspace: Store, place: tuple[str, str, str], manifest: Mapping[str, str], target: Path) -> None:
    """Fetch what is missing, check all of it, and only then give it its name."""
    partial = _beside(target, "partial")
    partial.mkdir(exist_ok=True)
    try:
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            fetched = [
                pool.submit(_fetch_file, partial / name, expected, workspace, (*place, name))
                for name, expected in manifest.items()
            ]
            for one in fetched:
                one.result()
        check_contents("/".join(place), (partial / name for name in manifest))
    except CheckpointError:
        shutil.rmtree(partial)
        raise
    except OSError as err:
        if err.errno != errno.ENOSPC:
            raise
        raise StorageError(
            f"no room on this machine for {'/'.join(place)}; free some in {cache_root()}, or let "
            "SONOLOOP_CACHE_DIR name another disk"
        ) from err
    for stray in {path.name for path in partial.iterdir()} - set(manifest):
        (partial / stray).unlink()
    partial.rename(target)
    _record(target, _stamps(target))


def _fetch_file(target: Path, expected: str, workspace: Store, parts: tuple[str, ...]) -> None:
    if target.is_file() and file_digest(target) == expected:  # of a fetch that was cut off
        return
    try:
        found = download(target, workspace, *parts)
    except FileNotFoundError as err:
        raise CheckpointError(f"{'/'.join(parts)} is missing; publish the model again") from err
    if found != expected:
        raise CheckpointError(f"{'/'.join(parts)} differs from its hash; publish the model again")
