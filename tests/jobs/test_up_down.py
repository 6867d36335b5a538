"""The verbs ``up`` and ``down`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sonoloop.jobs.down import down
from sonoloop.jobs.up import up
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.stack import environment, stop


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(up)
    app.command()(down)
    return app


def test_up_then_down_answer_in_json_without_a_secret(app: typer.Typer, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    try:
        result = CliRunner().invoke(app, ["up", "--folder", str(folder), "--component", "s3", "--json"])
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout)
        secret = environment(folder)["AWS_SECRET_ACCESS_KEY"]
        assert answer["s3_endpoint"].startswith("http://127.0.0.1:")
        assert answer["labelstudio_url"] is None
        assert secret not in result.output
        assert secret in Path(answer["env_file"]).read_text()

        table = CliRunner().invoke(app, ["up", "--folder", str(folder), "--component", "s3"])
        assert answer["s3_endpoint"] in table.stdout
        assert "already runs" in table.stderr

        stopped = CliRunner().invoke(app, ["down", "--folder", str(folder), "--json"])
        assert json.loads(stopped.stdout)["stopped"] == ["s3"]
        assert "did not run" in CliRunner().invoke(app, ["down", "--folder", str(folder)]).stdout
    finally:
        stop(folder)


def test_down_on_a_folder_that_is_not_there_says_so(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["down", "--folder", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, ConfigError)
    assert "nowhere" in str(result.exception)


def test_an_impossible_port_is_a_config_error(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["up", "--folder", str(tmp_path), "--s3-port", "80"])
    assert isinstance(result.exception, ConfigError)
    assert "port" in str(result.exception)
