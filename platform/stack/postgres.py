"""PostgreSQL for Label Studio: one of the stack's own from Debian's packages, or one that runs already.

PostgreSQL refuses to run as root. Where the stack does, its own server runs as Debian's user ``postgres``
with its data below that user's home, since a state folder is closed to it; everybody else's data lies in the
state folder. It listens on loopback only and asks for a generated password. Ending it by KILL loses nothing:
it recovers from its log at the next start.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlparse

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.stack import ports, processes
from sonoloop.platform.stack.files import OnProgress, private_folder, tail, write_private

NAME = "postgres"
PASSWORD_VARIABLE = "PGPASSWORD"
DEBIAN_FOLDER = Path("/usr/lib/postgresql")
DEBIAN_USER = "postgres"
OWN = "postgresql"
SQLITE = "sqlite"


class Database(BaseModel):
    """``labelstudio-database.json``: where Label Studio's PostgreSQL is, decided at the first start."""

    # A plain string, not SecretStr: the model is written as JSON; repr is off instead.
    model_config = ConfigDict(frozen=True, extra="forbid")

    is_own: bool = Field(description="whether the stack starts and stops it")
    host: str
    port: int
    name: str
    user: str
    password: str = Field(repr=False)

    def environment(self) -> dict[str, str]:
        """The variables by which Label Studio finds it."""
        return {
            "DJANGO_DB": "default",
            "POSTGRE_HOST": self.host,
            "POSTGRE_PORT": str(self.port),
            "POSTGRE_NAME": self.name,
            "POSTGRE_USER": self.user,
            "POSTGRE_PASSWORD": self.password,
        }


def database_file(folder: Path) -> Path:
    """Where address and password lie, mode 0600; absent for SQLite."""
    return folder / "labelstudio-database.json"


def load_or_choose(folder: Path, wanted: str | None, port: int) -> Database | None:
    """The folder's database, chosen at its first start and kept; ``None`` is SQLite.

    Args:
        folder: The state folder.
        wanted: ``sqlite``, ``postgresql``, ``postgresql://user@host:port/name``, or ``None``: what the folder
            has, at first SQLite.
        port: Of a server of the stack's own.

    Raises:
        ConfigError: the folder has another database already, or the wanted one cannot be used.
    """
    path, lite = database_file(folder), folder / "labelstudio" / "label_studio.sqlite3"
    if path.exists():
        try:
            known = Database.model_validate_json(path.read_text())
        except ValidationError as err:
            raise ConfigError(f"{path} does not describe a database; restore it") from err
        if wanted is not None and (wanted == SQLITE or known.is_own != (wanted == OWN)):
            raise ConfigError(_refused_change(folder, "PostgreSQL"))
        return known.model_copy(update={"port": port}) if known.is_own else known
    if wanted is None or wanted == SQLITE:
        return None
    if lite.exists():
        raise ConfigError(_refused_change(folder, "SQLite"))
    chosen = _own(port) if wanted == OWN else _parsed(wanted)
    write_private(path, chosen.model_dump_json(indent=1))
    return chosen


def _refused_change(folder: Path, kind: str) -> str:
    return (
        f"the Label Studio of {folder} keeps its data in {kind}, and nothing would carry it over; "
        "name another folder with --folder"
    )


def _own(port: int) -> Database:
    return Database(
        is_own=True,
        host="127.0.0.1",
        port=port,
        name="postgres",
        user="labelstudio",
        password=secrets.token_urlsafe(24),
    )


def _parsed(address: str) -> Database:
    parts = urlparse(address)
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or not parts.username:
        raise ConfigError(
            f"expected {SQLITE}, {OWN} or postgresql://user@host:port/name as the database of Label Studio"
        )
    if parts.password is not None or not password:
        raise ConfigError(f"the password of Label Studio's database belongs into {PASSWORD_VARIABLE}")
    return Database(
        is_own=False,
        host=parts.hostname,
        port=parts.port or 5432,
        name=unquote(parts.path.removeprefix("/")) or "postgres",
        user=unquote(parts.username),
        password=password,
    )


def find_programs() -> Path:
    """The folder of Debian's newest PostgreSQL, or of the one on PATH.

    Raises:
        ConfigError: none is installed.
    """
    found = [path for path in DEBIAN_FOLDER.glob("*/bin") if (path / "initdb").exists()]
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    beside = shutil.which("initdb")
    if beside is None:
        raise ConfigError(
            f"PostgreSQL is not installed: neither {DEBIAN_FOLDER}/*/bin nor PATH has initdb; install it "
            "with: apt-get install -y postgresql"
        )
    return Path(beside).resolve().parent


def data_folder(folder: Path) -> Path:
    """Where the server of the stack's own keeps its data."""
    if os.geteuid() != 0:
        return folder / "postgres"
    try:
        home = pwd.getpwnam(DEBIAN_USER).pw_dir
    except KeyError as err:
        raise ConfigError(
            f"PostgreSQL does not run as root and there is no user {DEBIAN_USER}; install Debian's "
            "postgresql, or run sonoloop up as another user"
        ) from err
    return Path(home, f"sonoloop-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}")


def _as_server(argv: list[str]) -> list[str]:
    """The command as PostgreSQL accepts it; ``setpriv`` becomes the program, so that its process id stays."""
    if os.geteuid() != 0:
        return argv
    return ["setpriv", f"--reuid={DEBIAN_USER}", f"--regid={DEBIAN_USER}", "--init-groups", *argv]


def _initialise(folder: Path, programs: Path, database: Database) -> None:
    """Make the data folder, unless it is there.

    Raises:
        ServiceError: initdb fails.
    """
    data, log = data_folder(folder), processes.log_file(folder, NAME)
    if data.exists():
        return
    fresh = data.with_name(f"{data.name}.new")  # takes its name when it is whole
    shutil.rmtree(fresh, ignore_errors=True)
    private_folder(fresh)
    private_folder(log.parent)
    password = data.with_name(f"{data.name}.password")
    write_private(password, database.password)
    argv = [str(programs / "initdb"), "-D", str(fresh), "-U", database.user, f"--pwfile={password}"]
    argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]
    try:
        if os.geteuid() == 0:
            for path in (fresh, password):
                shutil.chown(path, DEBIAN_USER, DEBIAN_USER)
        with log.open("a") as stream:
            done = subprocess.run(
                _as_server(argv), stdout=stream, stderr=stream, cwd=fresh, check=False, env=_environment()
            )
    finally:
        password.unlink()
    if done.returncode:
        raise ServiceError(f"PostgreSQL's initdb failed; its log {log} ends:\n{tail(log)}")
    fresh.rename(data)


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}


def query(programs: Path, database: Database, statement: str) -> str:
    """What the server answers to a statement, values separated by ``|``.

    Raises:
        ServiceError: it does not answer, or refuses.
    """
    argv = [str(programs / "psql"), "-XAtc", statement, "-h", database.host, "-p", str(database.port)]
    argv += ["-U", database.user, "-d", database.name]
    environment = {**_environment(), PASSWORD_VARIABLE: database.password, "PGCONNECT_TIMEOUT": "5"}
    done = subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(f"PostgreSQL at {database.host}:{database.port} does not answer a query")
    return done.stdout.strip()


def start(folder: Path, database: Database, *, timeout_s: float, on_progress: OnProgress) -> None:
    """Have the folder's own server work; it counts as up when it answers a query.

    Raises:
        ConfigError: PostgreSQL is not installed, or the port is in use.
        ServiceError: it does not start.
    """
    programs, title = find_programs(), "PostgreSQL"
    data = data_folder(folder)

    def launch() -> None:
        ports.require_free(folder, {NAME: database.port})
        _initialise(folder, programs, database)
        on_progress(f"{title}: starting")
        argv = [str(programs / "postgres"), "-D", str(data), "-p", str(database.port)]
        argv += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        processes.spawn(folder, NAME, _as_server(argv), env=_environment(), cwd=data)

    def probe() -> str | None:
        try:
            query(programs, database, "select 1")
        except ServiceError:
            return "it does not answer a query yet"
        return None

    processes.bring_up(
        folder, NAME, title, launch=launch, probe=probe, timeout_s=timeout_s, on_progress=on_progress
    )
