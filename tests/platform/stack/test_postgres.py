"""Label Studio on PostgreSQL: Debian's, started by the stack, or one that runs elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig as DoorConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.platform.stack import (
    Component,
    LabelStudioConfig,
    StackConfig,
    labelstudio,
    ports,
    postgres,
    processes,
    start,
    stop,
)


def _why_not() -> str:
    """Why PostgreSQL cannot be started here; empty where it can."""
    try:
        postgres.find_programs()
        postgres.data_folder(Path("/nowhere"))
    except ConfigError as err:
        return str(err)
    return ""


def test_an_address_names_the_server_and_its_password_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "postgresql://label%40studio@db.example.org:6432/reviews"
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with pytest.raises(ConfigError, match="belongs into PGPASSWORD"):
        postgres.load_or_choose(tmp_path, address, 1)
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    chosen = postgres.load_or_choose(tmp_path, address, 1)
    assert chosen is not None
    assert chosen.environment() == {
        "DJANGO_DB": "default",
        "POSTGRE_HOST": "db.example.org",
        "POSTGRE_PORT": "6432",
        "POSTGRE_NAME": "reviews",
        "POSTGRE_USER": "label@studio",
        "POSTGRE_PASSWORD": "s3cret",
    }
    assert "s3cret" not in repr(chosen)
    assert stat.S_IMODE(postgres.database_file(tmp_path).stat().st_mode) == 0o600
    assert postgres.load_or_choose(tmp_path, None, 1) == chosen  # kept


@pytest.mark.parametrize(
    "wanted",
    ["mysql://u@h/db", "postgresql://h/db", "postgresql://u:secret@h/db", "oracle", "postgresql://u@"],
)
def test_what_is_no_database_is_refused_without_its_text(
    tmp_path: Path, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "p")
    with pytest.raises(ConfigError) as caught:
        postgres.load_or_choose(tmp_path, wanted, 1)
    assert "secret" not in str(caught.value)
    assert not postgres.database_file(tmp_path).exists()


def test_a_folder_keeps_its_database(tmp_path: Path) -> None:
    assert postgres.load_or_choose(tmp_path, None, 1) is None
    assert postgres.load_or_choose(tmp_path, "sqlite", 1) is None
    (tmp_path / "labelstudio").mkdir()
    (tmp_path / "labelstudio" / "label_studio.sqlite3").touch()
    with pytest.raises(ConfigError, match="keeps its data in SQLite"):
        postgres.load_or_choose(tmp_path, "postgresql", 1)
    other = tmp_path / "other"
    other.mkdir()
    chosen = postgres.load_or_choose(other, "postgresql", 20_001)
    moved = postgres.load_or_choose(other, None, 20_002)
    assert chosen is not None
    assert moved == chosen.model_copy(update={"port": 20_002})
    with pytest.raises(ConfigError, match="keeps its data in PostgreSQL"):
        postgres.load_or_choose(other, "sqlite", 1)


def test_missing_programs_are_named_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "DEBIAN_FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install -y postgresql"):
        postgres.find_programs()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A state folder; what was started in it is stopped, and PostgreSQL's data goes."""
    folder = tmp_path / "state"
    yield folder
    if folder.exists():
        stop(folder)
        shutil.rmtree(postgres.data_folder(folder), ignore_errors=True)


def _up(folder: Path, database: str | None = None) -> str:
    config = StackConfig(
        folder=folder,
        components=(Component.LABELSTUDIO,),
        labelstudio=LabelStudioConfig(database=database),
    )
    url = start(config).labelstudio_url
    assert url is not None
    return url


@pytest.mark.labelstudio
@pytest.mark.slow
@pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "PostgreSQL is here")
def test_label_studio_keeps_its_data_in_postgresql_over_kill_9_and_restarts(folder: Path) -> None:
    url = _up(folder, "postgresql")
    assert not (folder / "labelstudio" / "label_studio.sqlite3").exists()
    account = labelstudio.load_or_create_account(folder, "unused")
    assert account.api_key is not None
    config = DoorConfig(url=url, project="On PostgreSQL")
    with LabelStudioDoor(config, SecretStr(account.api_key)) as door:
        project = door.ensure_project(config.project, build_page())
        tasks = [_task(number) for number in range(20)]
        assert upload(door, project.id, tasks).num_new_tasks == 20
    database = postgres.load_or_choose(folder, None, 0)
    assert database is not None
    for name in ("labelstudio", postgres.NAME):
        record = processes.read(folder, name)
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)

    _up(folder)  # which database is known

    with LabelStudioDoor(config, SecretStr(account.api_key)) as door:
        assert len(list(door.all_tasks(project.id))) == 20
    assert _count_tasks(folder) == "20"
    secret = database.password
    assert secret not in processes.log_file(folder, postgres.NAME).read_text()
    assert secret not in (folder / "stack.json").read_text()
    record = processes.read(folder, postgres.NAME)
    stop(folder)
    assert not processes.is_alive(record)


def _task(number: int) -> CaseUpload:
    return CaseUpload(
        {"case_id": f"c{number}", "images": ["s3://b/images/a.png"], "organ_hint": "breast", "scanner": "x"}
    )


def _count_tasks(folder: Path) -> str:
    database = postgres.load_or_choose(folder, None, ports.recorded(folder)[postgres.NAME])
    assert database is not None
    wrong = database.model_copy(update={"password": "guess"})
    with pytest.raises(ServiceError, match="does not answer a query"):
        postgres.query(postgres.find_programs(), wrong, "select 1")
    return postgres.query(postgres.find_programs(), database, "select count(*) from task")
