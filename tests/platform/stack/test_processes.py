"""Processes are known by more than a pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.stack import processes
from sonoloop.platform.stack.files import write_private

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else."""
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        yield process
        process.kill()


def spawn(folder: Path, argv: list[str], name: str = "service") -> processes.ProcessRecord:
    return processes.spawn(folder, name, argv, env=dict(os.environ), cwd=folder)


def wait_for(path: Path) -> str:
    for _ in range(2400):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_a_stale_record_with_the_pid_of_another_process_does_not_harm_it(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    time.sleep(0.05)  # a pid is not given out again within one clock tick (10 ms); nor may this test do so
    record = spawn(tmp_path, SLEEP)
    os.kill(record.pid, signal.SIGKILL)
    while processes.is_alive(record):  # a loaded machine takes its time to end it
        time.sleep(0.01)
    stale = record.model_copy(update={"pid": bystander.pid})
    write_private(processes.pid_file(tmp_path, "service"), stale.model_dump_json())

    assert not processes.is_alive(stale)
    assert processes.stop(tmp_path, "service") is False
    assert bystander.poll() is None
    assert processes.read(tmp_path, "service") is None


def test_a_record_from_before_a_reboot_does_not_harm_a_process_with_equal_pid_and_ticks(
    tmp_path: Path,
) -> None:
    record = spawn(tmp_path, SLEEP)
    old = record.model_copy(update={"boot_id": "another-boot"})
    write_private(processes.pid_file(tmp_path, "service"), old.model_dump_json())

    assert processes.stop(tmp_path, "service") is False
    assert processes.is_alive(record)
    write_private(processes.pid_file(tmp_path, "service"), record.model_dump_json())
    assert processes.stop(tmp_path, "service") is True


def test_an_unreadable_record_is_no_record(tmp_path: Path) -> None:
    spawned = spawn(tmp_path, SLEEP)
    path = processes.pid_file(tmp_path, "service")
    good = path.read_text()
    path.write_text("4711")
    assert processes.read(tmp_path, "service") is None
    path.write_text(good)
    processes.stop(tmp_path, "service")
    assert not processes.is_alive(spawned)


def test_stop_ends_a_process_that_ignores_term(tmp_path: Path) -> None:
    code = (
        "import signal, pathlib, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "pathlib.Path('ready').write_text('1'); time.sleep(120)"
    )
    record = spawn(tmp_path, [sys.executable, "-c", code])
    wait_for(tmp_path / "ready")
    assert processes.stop(tmp_path, "service", grace_s=0.3) is True
    assert not processes.is_alive(record)


def test_stop_finds_what_a_killed_parent_left_behind_in_another_session(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, pathlib, time;"
        f"child = subprocess.Popen({SLEEP!r}, start_new_session=True);"
        "pathlib.Path('child').write_text(str(child.pid)); time.sleep(120)"
    )
    record = spawn(tmp_path, [sys.executable, "-c", code])
    child = int(wait_for(tmp_path / "child"))
    os.kill(record.pid, signal.SIGKILL)
    while processes.is_alive(record):
        time.sleep(0.02)

    assert [seen.pid for seen in processes.members(record)] == [child]
    assert processes.stop(tmp_path, "service") is True
    assert processes.members(record) == []


def test_a_process_that_ends_while_starting_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    spawn(tmp_path, [sys.executable, "-c", "print('the disk is full')"])
    with pytest.raises(
        ServiceError, match=r"(?s)Thing ended while it started.*service\.log.*the disk is full"
    ):
        processes.wait_until_works(
            tmp_path, "service", "Thing", lambda: "not yet", timeout_s=300, on_progress=lambda _: None
        )


def test_a_service_that_does_not_answer_is_reported_with_reason_and_log(tmp_path: Path) -> None:
    spawn(tmp_path, SLEEP)
    try:
        with pytest.raises(
            ServiceError, match=r"Thing did not answer within 0 s \(silence\); its log .*service\.log"
        ):
            processes.wait_until_works(
                tmp_path, "service", "Thing", lambda: "silence", timeout_s=0.3, on_progress=lambda _: None
            )
    finally:
        processes.stop(tmp_path, "service")


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no-such-program"):
        spawn(tmp_path, [str(tmp_path / "no-such-program")])


def test_a_service_that_is_dying_when_found_is_started_again(tmp_path: Path) -> None:
    dying = spawn(tmp_path, [sys.executable, "-c", "import time; time.sleep(0.5)"])
    launched: list[processes.ProcessRecord] = []
    try:
        reused = processes.bring_up(
            tmp_path,
            "service",
            "Thing",
            launch=lambda: launched.append(spawn(tmp_path, SLEEP)),
            probe=lambda: None if launched else "not yet",
            timeout_s=300,
            on_progress=lambda _: None,
        )
        assert reused is False
        assert processes.is_alive(launched[0])
        assert not processes.is_alive(dying)
    finally:
        processes.stop(tmp_path, "service")
