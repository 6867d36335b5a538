"""What the chaos tests share: a workspace with cases and its undisturbed drafts, `sonoloop annotate` as a
process, and a Ray cluster of several raylets whose processes can be found and killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from tests.conftest import started
from tests.jobs.learnable import picture_case

from sonoloop.model import nano
from sonoloop.platform import registry
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.sorted_rooms import CASES, write_sorted
from sonoloop.platform.stack import Component, processes, s3
from sonoloop.platform.workspace import S3Config, Store

NUM_CASES = 36
CASES_PER_UNIT = 2
NUM_UNITS = NUM_CASES // CASES_PER_UNIT
DEADLINE_S = 600
STORAGE_EXIT = StorageError.exit_code
COMPLAINTS = ("error:", "Traceback")


def make_workspace(folder: Path) -> Store:
    """A local workspace with the built-in model and cases of smooth random pictures."""
    folder.mkdir()
    store = Store(str(folder))
    random = np.random.default_rng(5)
    cases = [
        picture_case(store, random, number, (320, 240), patient="p", organ="thyroid")
        for number in range(NUM_CASES)
    ]
    write_sorted(store, CASES, cases, "cases.parquet")
    version = registry.publish(store, nano.folder(), "echovlm-nano", lineage={})
    registry.set_aliases(store, "echovlm-nano", {"champion": version}, expected=registry.Aliases())
    return store


def copied(store: Store, folder: Path) -> Store:
    """A copy of a local workspace in another folder."""
    shutil.copytree(store.root, folder)
    return Store(str(folder))


def uploaded(store: Store, uri: str, s3: S3Config) -> Store:
    """A copy of a local workspace on S3."""
    target = Store(uri, s3)
    for path in Path(store.root).rglob("*"):
        if path.is_file():
            target.write_bytes(path.read_bytes(), *path.relative_to(store.root).parts)
    aliases = target.get_control("models", "echovlm-nano", "aliases.json")
    assert aliases is not None
    return target


def drafts_of(store: Store) -> pa.Table:
    """Every row of ``drafts/`` in the order of the cases, all columns but the run's id."""
    return store.read_tables(DraftRecord.ARROW, "drafts").sort_by("case_id").drop_columns("run_id")


@dataclass
class Verb:
    """A verb of ``sonoloop`` with ``--json`` on a workspace, as a process group of its own.

    Attributes:
        store: The workspace.
        folder: Where its configuration is written, and what it says.
        env: The environment.
        settings: Lines of the verb's section.
    """

    name: ClassVar[str]
    given: ClassVar[tuple[str, ...]] = ()
    """Lines that are in the section always."""

    store: Store
    folder: Path
    env: dict[str, str]
    settings: tuple[str, ...] = ()
    process: subprocess.Popen[str] = field(init=False)
    _said_before: int = field(default=0, init=False)

    def start(self) -> None:
        """Begin, or begin again after it was killed."""
        lines = [f'workspace = "{self.store.uri}"', f'archive = "{self.folder}/archive"', f"[{self.name}]"]
        lines += [*self.given, *self.settings]
        if self.store.is_s3:
            lines += ["[s3]", f'endpoint_url = "{self.store.s3.endpoint_url}"']
        (self.folder / "sonoloop.toml").write_text("\n".join(lines))
        self._said_before = len(self.said())
        command = [sys.executable, "-m", "sonoloop.jobs.cli", self.name, "--json"]
        self.process = subprocess.Popen(
            [*command, "--config", str(self.folder / "sonoloop.toml")],
            env=self.env,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr.txt").open("a"),
            text=True,
        )

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something to come true while the process runs; returns it."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := condition()):
            assert self.process.poll() is None, f"{self.name} ended before {what}: {self.complaint()}"
            assert time.monotonic() < deadline, f"not in {DEADLINE_S} s: {what}"
            time.sleep(0.05)
        return found

    def kill(self) -> None:
        """SIGKILL to the whole process group: the driver and a Ray of its own."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close()

    def ends_with(self) -> int:
        """Wait for its end; its exit code."""
        self._output()
        return self.process.returncode

    def finish(self) -> dict[str, Any]:
        """Wait for its end, which must be a good one; the summary that it prints."""
        output = self._output()
        assert self.process.returncode == 0, self.complaint()
        found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return found

    def finish_or_again(self) -> None:
        """Wait for its end; while it stops because the store is away, or was killed, the same again."""
        while self.process.wait(DEADLINE_S) in (STORAGE_EXIT, -signal.SIGKILL) or self._lost_its_node():
            self._close()
            self.start()

    def said(self) -> str:
        """All that it said on standard error, of all starts."""
        path = self.folder / "stderr.txt"
        return path.read_text() if path.exists() else ""

    def complaint(self) -> str:
        """The end of what it said."""
        return self.said()[-3000:]

    def _output(self) -> str:
        try:
            return self.process.communicate(timeout=DEADLINE_S)[0]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} not ended in {DEADLINE_S} s: {self.complaint()}") from None

    def _close(self) -> None:
        assert self.process.stdout
        self.process.stdout.close()

    def _lost_its_node(self) -> bool:
        """Ray ends a driver with 1, at once and without a word, when the raylet that it joined is gone."""
        said = self.said()[self._said_before :].splitlines()
        return self.process.returncode == 1 and not any(line.startswith(COMPLAINTS) for line in said)


V = TypeVar("V", bound=Verb)


def starting(verb: type[V], workspace: Store, folder: Path) -> Iterator[Callable[..., V]]:
    """For a fixture: starts the verb on a copy of a workspace or on another store; ended with the test."""
    runs: list[V] = []

    def start(env: dict[str, str], *settings: str, store: Store | None = None) -> V:
        own = folder / str(len(runs))
        own.mkdir()
        run = verb(store or copied(workspace, own / "workspace"), own, env, settings)
        runs.append(run)
        run.start()
        return run

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.kill()


class Annotate(Verb):
    """``sonoloop annotate``."""

    name = "annotate"
    given = (f"cases_per_unit = {CASES_PER_UNIT}",)

    def until_durable(self, num_units: int) -> None:
        """Wait until so many units are in ``drafts/`` and more are to come."""
        self.until(lambda: len(self.files()) >= num_units, f"{num_units} units were durable")

    def files(self) -> list[str]:
        """What is in ``drafts/``."""
        return self.store.table_paths("drafts")


def restart_s3(folder: Path, *, away_s: float = 3) -> None:
    """SIGKILL to the S3 of a state folder; it is started again a little later."""
    record = processes.read(folder, s3.NAME)
    assert record is not None
    os.killpg(record.pid, signal.SIGKILL)
    time.sleep(away_s)
    started(folder, Component.S3)


def assert_undisturbed(run: Annotate, reference: pa.Table) -> None:
    """The run ends by itself with in = drafted + rejected, and with what an undisturbed run wrote."""
    summary = run.finish()
    assert summary["cases"] == summary["drafted"] + summary["rejected"] == NUM_CASES, summary
    assert_same(run.store, reference)


def assert_same(store: Store, reference: pa.Table) -> None:
    """Every case once, and byte by byte what an undisturbed run wrote."""
    found = drafts_of(store)
    assert found["case_id"].to_pylist() == reference["case_id"].to_pylist()
    assert found.equals(reference), differences(found, reference)


def differences(found: pa.Table, reference: pa.Table) -> list[tuple[str, Any, Any]]:
    """Of the first rows that differ, what differs."""
    pairs = zip(found.to_pylist(), reference.to_pylist(), strict=True)
    return [(name, a[name], b[name]) for a, b in pairs for name in a if a[name] != b[name]][:5]


def processes_below(pid: int) -> dict[int, str]:
    """Pid -> command line of all processes that a process started, and theirs."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        parents.setdefault(parent, []).append((int(entry.name), command))
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for child, command in parents.get(waiting.pop(), []):
            found[child] = command
            waiting.append(child)
    return found
