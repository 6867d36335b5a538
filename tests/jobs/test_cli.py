"""The command line: every fault is one message and an exit code that means something, never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from sonoloop.jobs import cli
from sonoloop.platform.errors import ConfigError, NothingToDoError, StorageError
from sonoloop.platform.identity import KEY_VARIABLE

if TYPE_CHECKING:
    from conftest import S3Stack


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def only_message(self) -> str:
        """The one line on stderr; there is nothing else."""
        assert self.out == ""
        (line,) = self.err.strip().splitlines()
        return line


class Shell:
    """`sonoloop` as the console script runs it, in this process: whatever is not handled is raised."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str], folder: Path) -> None:
        self._patch, self._capture, self.folder = patch, capture, folder

    def __call__(self, *arguments: str) -> Answer:
        self._patch.setattr(sys, "argv", ["sonoloop", *arguments])
        self._capture.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as err:
            code = int(err.code or 0)
        return Answer(code, *self._capture.readouterr())

    def config(self, archive: str, workspace: str, more: str = "") -> str:
        path = self.folder / "sonoloop.toml"
        path.write_text(f'archive = "{archive}"\nworkspace = "{workspace}"\n{more}')
        return str(path)


@pytest.fixture
def sonoloop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef-of-the-tests")
    for name in ("archive", "workspace"):
        (tmp_path / name).mkdir()
    return Shell(monkeypatch, capsys, tmp_path)


def test_help_names_every_verb_and_each_verb_has_an_entry_point(sonoloop: Shell) -> None:
    answer = sonoloop("--help")
    assert answer.code == 0
    assert [verb for verb in cli.VERBS if not re.search(rf"^  {verb} ", answer.out, re.MULTILINE)] == []
    assert {entry.name for entry in entry_points(group=cli.GROUP)} == set(cli.VERBS)


def test_a_verb_tells_its_options(sonoloop: Shell) -> None:
    answer = sonoloop("promote", "--help")
    assert answer.code == 0
    assert "--rollback" in answer.out
    assert "--json" in answer.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "Usage"),
        (("indexx",), "indexx"),
        (("status", "--jsn"), "--jsn"),
        (("status", "surplus"), "surplus"),
        (("status", "--config"), "--config"),
    ],
)
def test_a_mistyped_command_exits_with_2_and_says_what_it_did_not_know(
    sonoloop: Shell, arguments: tuple[str, ...], word: str
) -> None:
    answer = sonoloop(*arguments)
    assert answer.code == 2
    assert word in answer.err


def test_a_missing_configuration_is_one_message(sonoloop: Shell) -> None:
    answer = sonoloop("status", "--config", str(sonoloop.folder / "none.toml"))
    assert answer.code == ConfigError.exit_code
    assert "no configuration at" in answer.only_message()


@pytest.mark.parametrize(
    ("more", "variable", "words"),
    [
        ("[index]\nkey_frame = 3", "", "unknown key 'index.key_frame'; did you mean 'key_frames'"),
        ("[anotate]\ncases_per_unit = 3", "", "unknown key 'anotate'; did you mean 'annotate'"),
        (
            "",
            "SONOLOOP__ANNOTATE__CASESPERUNIT",
            "unknown key 'annotate.casesperunit'; did you mean 'cases_per_unit'",
        ),
        ("", "SONOLOOP__ARCHIVES", "unknown key 'archives'; did you mean 'archive'"),
        ("[index]\nkey_frames = 0", "", "index.key_frames"),
        ("[s3]\nendpoint_url = 'localhost:1'", "", "s3.endpoint_url"),
    ],
)
def test_a_typo_in_file_or_environment_names_the_nearest_key(
    sonoloop: Shell, monkeypatch: pytest.MonkeyPatch, more: str, variable: str, words: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, "3")
    answer = sonoloop("status", "-c", sonoloop.config("a", "b", more))
    assert answer.code == ConfigError.exit_code
    assert words in answer.only_message()


def test_a_missing_folder_and_an_empty_archive_are_one_message_each(sonoloop: Shell) -> None:
    folder = sonoloop.folder
    missing = sonoloop("index", "-c", sonoloop.config(str(folder / "nowhere"), str(folder / "workspace")))
    assert missing.code == StorageError.exit_code
    assert "nowhere does not exist" in missing.only_message()
    empty = sonoloop("index", "-c", sonoloop.config(str(folder / "archive"), str(folder / "workspace")))
    assert empty.code == NothingToDoError.exit_code
    assert "holds no object" in empty.only_message()
    assert list((folder / "workspace").iterdir()) == []


def test_without_a_pseudonym_key_nothing_is_read(sonoloop: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    answer = sonoloop("index", "-c", sonoloop.config("a", "b"))
    assert answer.code == ConfigError.exit_code
    assert KEY_VARIABLE in answer.only_message()


@pytest.mark.parametrize("fault", ["no bucket", "wrong key", "no endpoint", "no object", "no key"])
def test_each_trouble_with_s3_is_one_message_without_a_secret(
    sonoloop: Shell, stack_s3: S3Stack, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    bucket = stack_s3.bucket()
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    archive, code, words = {
        "no bucket": (f"s3://missing-{bucket}/a", StorageError.exit_code, "no such bucket"),
        "wrong key": (f"s3://{bucket}/a", StorageError.exit_code, "access refused"),
        "no endpoint": (f"s3://{bucket}/a", StorageError.exit_code, "does not answer"),
        "no object": (f"s3://{bucket}/a", NothingToDoError.exit_code, "holds no object"),
        "no key": (f"s3://{bucket}/a", StorageError.exit_code, "no keys"),
    }[fault]
    if fault == "wrong key":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    if fault == "no endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    if fault == "no key":
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
    answer = sonoloop("index", "--json", "-c", sonoloop.config(archive, str(sonoloop.folder / "workspace")))
    assert answer.code == code
    assert words in answer.only_message()
    assert "secret" not in answer.err.replace("AWS_SECRET_ACCESS_KEY", "")
    assert stack_s3.env["AWS_SECRET_ACCESS_KEY"] not in answer.err
    assert list((sonoloop.folder / "workspace").iterdir()) == []


def test_json_is_one_object_on_stdout(sonoloop: Shell) -> None:
    workspace = sonoloop.folder / "workspace"
    answer = sonoloop("status", "--json", "-c", sonoloop.config("a", str(workspace)))
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["workspace"] == str(workspace)


def test_a_table_shows_brackets_as_they_are(sonoloop: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sonoloop.folder)
    (sonoloop.folder / "[red]x").mkdir()
    answer = sonoloop("status", "-c", sonoloop.config("a", "[red]x"))
    assert "[red]x" in answer.out


def test_an_impossible_log_level_is_a_config_error(sonoloop: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONOLOOP_LOG_LEVEL", "loud")
    answer = sonoloop("status")
    assert answer.code == ConfigError.exit_code
    assert "DEBUG" in answer.only_message()


def test_a_verb_whose_extra_is_not_installed_names_the_package(
    sonoloop: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("status", "a_package_of_another_extra.module:status", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda **_: (entry,))
    answer = sonoloop("status")
    assert answer.code == ConfigError.exit_code
    assert "needs the package a_package_of_another_extra" in answer.only_message()


def test_the_installed_program_ends_with_the_code_and_the_message(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("sonoloop")
    environment = {**os.environ, "SONOLOOP_LOG_LEVEL": "loud"}  # a fault that asks for no heavy import
    done = subprocess.run(
        [program, "status"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (ConfigError.exit_code, "")
    assert done.stderr.startswith("error: SONOLOOP_LOG_LEVEL must be one of")
