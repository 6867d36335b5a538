"""``sonoloop serve`` as a person starts it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from tests.conftest import outside_ray

from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.registry import Aliases
from sonoloop.platform.settings import parse_settings
from sonoloop.platform.stack.ports import free_port
from sonoloop.platform.workspace import S3Config, store_of
from sonoloop.serve.config import ServeSettings, required_key

EXAMPLE = Path(__file__).parents[2] / "examples" / "sonoloop.toml"
API_KEY = "test-key-0123456789abcdef"


def settings(text: str, **environment: str) -> ServeSettings:
    return parse_settings(ServeSettings, text, environment, source="test")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    file = tmp_path / "sonoloop.toml"
    file.write_text(f'workspace = "{tmp_path}/workspace"\narchive = "unused"\n[model]\nname = "untrained"\n')
    return file


def started(config_file: Path, port: int, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with none of this session's Ray variables."""
    own = {
        "SONOLOOP_API_KEY": API_KEY,
        "SONOLOOP_CACHE_DIR": str(config_file.parent / "cache"),
        "COLUMNS": "80",
    }
    command = [
        sys.executable,
        "-m",
        "sonoloop.jobs.cli",
        "serve",
        "-c",
        str(config_file),
        "--port",
        str(port),
    ]
    return subprocess.Popen(
        command,
        env=outside_ray() | own | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def refused(config_file: Path, port: int, **environment: str) -> str:
    process = started(config_file, port, **environment)
    _, output = process.communicate(timeout=300)
    assert process.returncode == 2
    assert len(output.splitlines()) == 1
    return output


def test_the_example_file_is_understood_and_says_what_it_should() -> None:
    found = parse_settings(ServeSettings, EXAMPLE.read_text(), {}, source="example")
    assert found.serve.port == tomllib.loads(EXAMPLE.read_text())["serve"]["port"]
    assert found.serve.host == "127.0.0.1"


def test_a_typo_in_the_section_names_the_nearest_key() -> None:
    with pytest.raises(ConfigError, match=r"serve\.prot.*did you mean 'port'"):
        settings('workspace = "w"\n[serve]\nprot = 1')


@pytest.mark.parametrize("value", [0, 65_536, -1])
def test_a_port_that_nobody_would_find_is_refused(value: int) -> None:
    with pytest.raises(ConfigError, match=r"serve\.port"):
        settings(f'workspace = "w"\n[serve]\nport = {value}')


def test_replicas_that_an_own_ray_could_never_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    text = 'workspace = "w"\n[serve]\nmax_replicas = 5'
    with pytest.raises(ConfigError, match="10 logical CPUs"):
        settings(text)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert settings(text).serve.max_replicas == 5


@pytest.mark.parametrize("key", ["", "short"])
def test_a_key_that_is_missing_or_could_be_guessed_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SONOLOOP_API_KEY", key)
    with pytest.raises(ConfigError, match="at least 16 characters"):
        required_key()


def test_without_a_key_the_command_ends_in_one_line(config_file: Path, port: int) -> None:
    assert "SONOLOOP_API_KEY" in refused(config_file, port, SONOLOOP_API_KEY="")


def test_without_a_champion_the_command_says_what_to_run(config_file: Path, port: int) -> None:
    assert "sonoloop init" in refused(config_file, port)


def _publish(config_file: Path, folder: Path) -> str:
    workspace = store_of(str(config_file.parent / "workspace"), S3Config())
    version = registry.publish(workspace, folder, "untrained", lineage={})
    registry.set_aliases(workspace, "untrained", {"champion": version}, expected=Aliases())
    return version


def test_a_port_in_use_is_named_before_anything_starts(
    config_file: Path, untrained_folder: Path, port: int
) -> None:
    _publish(config_file, untrained_folder)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        assert f"127.0.0.1:{port}" in refused(config_file, port)


@pytest.fixture
def mark() -> Iterator[str]:
    """A value in the environment of everything that the command starts; what is left of it is ended."""
    value = secrets.token_hex(8)
    yield value
    for pid in _marked(value):
        os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark.encode() in (place / "environ").read_bytes()
        except OSError:
            continue
        if ours:
            found.append(int(place.name))
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop_and_leaves_nothing_behind(
    config_file: Path, untrained_folder: Path, port: int, mark: str
) -> None:
    version = _publish(config_file, untrained_folder)
    process = started(config_file, port, SONOLOOP_TEST_MARK=mark)
    url = f"http://127.0.0.1:{port}"
    _wait_until_healthy(url, process)
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{url}/v1", api_key=API_KEY, http_client=http) as client:
        answer = client.chat.completions.create(
            model="untrained", messages=[{"role": "user", "content": "describe it"}], max_tokens=5
        )
    assert answer.model == version
    assert process.stderr is not None
    introduction = ""
    while "curl" not in introduction:  # it may be asked a little before it says so
        line = process.stderr.readline()
        assert line, f"it ended: {introduction}"
        introduction += line
    assert f"curl -s {url}/v1/chat/completions" in introduction
    assert version in introduction
    process.terminate()
    _, rest = process.communicate(timeout=300)
    assert process.returncode == 0, introduction + rest
    assert API_KEY not in introduction + rest
    _until_none_is_left(mark)


@pytest.mark.ray
@pytest.mark.slow
def test_told_to_stop_while_it_starts_it_leaves_nothing_behind(
    config_file: Path, untrained_folder: Path, port: int, mark: str
) -> None:
    _publish(config_file, untrained_folder)
    process = started(config_file, port, SONOLOOP_TEST_MARK=mark)
    assert process.stderr is not None
    while "loading" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C in a terminal goes to the whole group
    process.communicate(timeout=300)
    assert process.returncode == 0
    _until_none_is_left(mark)


def _until_none_is_left(mark: str) -> None:
    deadline = time.monotonic() + 300
    while left := _marked(mark):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.2)


def _wait_until_healthy(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/healthz", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    process.kill()
    pytest.fail(f"it did not come up: {process.communicate()[1]}")
