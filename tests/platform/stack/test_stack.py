"""Start and stop of several services together."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.stack import (
    Component,
    S3Config,
    StackConfig,
    environment,
    info,
    ports,
    processes,
    start,
    stop,
)
from sonoloop.platform.stack.files import locked, write_private


def test_two_starts_at_once_share_one_service(tmp_path: Path) -> None:
    config = StackConfig(folder=tmp_path / "state", components=(Component.S3,))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(start(config))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len(found) == 2
        assert found[0] == found[1] == info(config.folder)
    finally:
        assert stop(config.folder) == (Component.S3,)


def test_own_keys_and_ports_are_the_same_at_the_next_start(stack_s3) -> None:
    before, assigned = environment(stack_s3.folder), ports.recorded(stack_s3.folder)
    start(StackConfig(folder=stack_s3.folder, components=(Component.S3,)))
    assert environment(stack_s3.folder) == before
    assert ports.recorded(stack_s3.folder) == assigned


def test_a_damaged_secrets_file_is_never_replaced(tmp_path: Path) -> None:
    write_private(tmp_path / "secrets.json", "{}")
    with pytest.raises(ConfigError, match=r"secrets\.json does not hold SONOLOOP_PSEUDONYM_KEY"):
        start(StackConfig(folder=tmp_path, components=(Component.S3,)))
    assert (tmp_path / "secrets.json").read_text() == "{}"
    assert processes.read(tmp_path, "s3") is None


def test_another_port_for_a_running_service_is_refused(stack_s3) -> None:
    with pytest.raises(ConfigError, match="already runs on port"):
        start(StackConfig(folder=stack_s3.folder, components=(Component.S3,), s3=S3Config(port=20_001)))
    assert stack_s3.client.list_buckets()["Buckets"]


def test_a_folder_in_work_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    with (
        locked(tmp_path, timeout_s=1, on_progress=lambda _: None),
        pytest.raises(ServiceError, match="another sonoloop up or down"),
        locked(tmp_path, timeout_s=0.5, on_progress=lines.append),
    ):
        raise AssertionError("the lock was given twice")
    assert len(lines) == 1


def test_the_env_file_gives_a_shell_what_environment_gives_python(stack_s3) -> None:
    import subprocess

    script = f'. {stack_s3.folder}/env; printf %s "$AWS_SECRET_ACCESS_KEY $SONOLOOP_PSEUDONYM_KEY"'
    printed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={}).stdout
    env = environment(stack_s3.folder)
    assert printed == f"{env['AWS_SECRET_ACCESS_KEY']} {env['SONOLOOP_PSEUDONYM_KEY']}"


def test_there_is_no_environment_without_a_stack(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sonoloop up --folder"):
        environment(tmp_path)
