"""The local Label Studio, the real one; a single server serves the whole session."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import pytest

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.stack import (
    Component,
    LabelStudioConfig,
    StackConfig,
    labelstudio,
    login,
    processes,
    start,
)
from sonoloop.platform.stack.files import write_private


def restart(folder: Path) -> None:
    start(StackConfig(folder=folder, components=(Component.LABELSTUDIO,)))


def test_a_missing_environment_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(labelstudio.VENV_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"nowhere/bin/label-studio is missing.*pip install 'label-studio"):
        start(StackConfig(folder=tmp_path / "state", components=(Component.LABELSTUDIO,)))


def test_the_environment_variable_names_the_venv_and_the_config_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin" / "label-studio").touch()
    monkeypatch.setenv(labelstudio.VENV_VARIABLE, str(tmp_path / "a"))
    assert labelstudio.find_binary(LabelStudioConfig()) == tmp_path / "a/bin/label-studio"
    assert labelstudio.find_binary(LabelStudioConfig(venv=tmp_path / "b")) == tmp_path / "b/bin/label-studio"


def test_a_database_whose_password_file_is_gone_is_not_given_a_new_password(tmp_path: Path) -> None:
    (tmp_path / "labelstudio").mkdir()
    (tmp_path / "labelstudio" / "label_studio.sqlite3").touch()
    with pytest.raises(ConfigError, match=r"labelstudio\.json.*is gone"):
        labelstudio.load_or_create_account(tmp_path, "reader@sonoloop.local")


@pytest.mark.labelstudio
def test_the_token_works_and_the_account_file_is_private(stack_labelstudio) -> None:
    with stack_labelstudio.http() as http:
        who = http.get("/api/current-user/whoami").json()
    assert who["email"] == stack_labelstudio.username
    assert stack_labelstudio.env["LABEL_STUDIO_API_KEY"] == stack_labelstudio.api_key
    path = labelstudio.account_file(stack_labelstudio.folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    described = (stack_labelstudio.folder / "stack.json").read_text()
    assert stack_labelstudio.password not in described
    assert stack_labelstudio.api_key not in described


@pytest.mark.labelstudio
def test_the_password_is_on_no_command_line_and_in_no_log(stack_labelstudio) -> None:
    record = processes.read(stack_labelstudio.folder, "labelstudio")
    assert record is not None
    assert stack_labelstudio.password not in Path(f"/proc/{record.pid}/cmdline").read_text()
    assert (
        stack_labelstudio.password
        not in processes.log_file(stack_labelstudio.folder, "labelstudio").read_text()
    )


@pytest.mark.labelstudio
def test_token_login_and_data_survive_kill_9_and_a_restart(stack_labelstudio) -> None:
    folder = stack_labelstudio.folder
    with stack_labelstudio.http() as http:
        project = http.post("/api/projects", json={"title": "kept"}).json()["id"]
    before = labelstudio.account_file(folder).read_text()
    record = processes.read(folder, "labelstudio")
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)

    restart(folder)

    assert labelstudio.account_file(folder).read_text() == before
    with stack_labelstudio.http() as http:
        assert http.get(f"/api/projects/{project}").json()["title"] == "kept"
        http.delete(f"/api/projects/{project}")


@pytest.mark.labelstudio
def test_the_key_that_signs_tokens_is_ours_and_the_only_one(stack_labelstudio) -> None:
    labelstudio.ensure_secret_key(stack_labelstudio.folder)  # keeps what is there
    path = stack_labelstudio.folder / "labelstudio" / ".env"
    name, _, key = path.read_text().strip().partition("=")
    assert name == "SECRET_KEY"  # one line: Label Studio took it and added none
    assert len(bytes.fromhex(key)) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.labelstudio
def test_a_token_lost_before_it_was_written_down_is_replaced(stack_labelstudio) -> None:
    path = labelstudio.account_file(stack_labelstudio.folder)
    before = path.read_text()
    write_private(path, json.dumps({**json.loads(before), "api_key": None}))
    restart(stack_labelstudio.folder)
    renewed = json.loads(path.read_text())["api_key"]
    try:
        assert renewed != stack_labelstudio.api_key
        assert login.access_token(stack_labelstudio.url, renewed)
        assert login.access_token(stack_labelstudio.url, stack_labelstudio.api_key) is None
    finally:
        # The session's fixture is frozen; the tests after this one read the new token from it.
        object.__setattr__(stack_labelstudio, "api_key", renewed)
        stack_labelstudio.env["LABEL_STUDIO_API_KEY"] = renewed


@pytest.mark.labelstudio
def test_a_wrong_password_is_refused_with_the_way_out(stack_labelstudio) -> None:
    with pytest.raises(ServiceError, match="refuses the recorded login"):
        login.new_token(stack_labelstudio.url, stack_labelstudio.username, "guess")


@pytest.mark.labelstudio
def test_something_else_on_the_port_is_not_taken_for_label_studio(stack_s3) -> None:
    import httpx

    with pytest.raises((ServiceError, httpx.HTTPError)):
        login.new_token(stack_s3.endpoint, "reader@sonoloop.local", "guess")
