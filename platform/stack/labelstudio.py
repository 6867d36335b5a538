"""Label Studio on this machine: SQLite or PostgreSQL, one generated account, a personal access token.

It runs from its own virtual environment, since its pinned dependencies do not fit beside ours. Measured with
Label Studio 1.23: the first boot takes 35-60 s (migrations), later ones 4-10 s. SQLite in WAL mode bears
a handful of annotators; several importers beside them lock it. PostgreSQL (`postgres`) is for more.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.labelstudio.page_keys import EDITOR_KEYMAP
from sonoloop.platform.stack import login, ports, postgres, processes
from sonoloop.platform.stack.files import OnProgress, private_folder, write_private

logger = logging.getLogger(__name__)

NAME = "labelstudio"
PORT_NAMES = ("labelstudio", postgres.NAME)
VENV_VARIABLE = "SONOLOOP_LABELSTUDIO_VENV"


class LabelStudioConfig(BaseModel):
    """How the local Label Studio runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int | None = Field(
        default=None, ge=1024, le=65_535, description="null: kept, or chosen at first start"
    )
    venv: Path | None = Field(
        default=None,
        description=f"environment with label-studio; null: ${VENV_VARIABLE}, else .venv-labelstudio here",
    )
    username: str = Field(
        default="reader@sonoloop.local", description="account of the first start, kept after"
    )
    database: str | None = Field(
        default=None,
        description="sqlite; postgresql, started beside it; postgresql://user@host:port/name, its password "
        f"in {postgres.PASSWORD_VARIABLE}; null: kept, at first sqlite",
    )


class Account(BaseModel):
    """``labelstudio.json``: the login and, once made, the personal access token (a refresh JWT)."""

    # Plain strings, not SecretStr: the model is written as JSON; repr is off instead.
    model_config = ConfigDict(frozen=True, extra="forbid")

    username: str
    password: str = Field(repr=False)
    api_key: str | None = Field(default=None, repr=False)


def account_file(folder: Path) -> Path:
    """Where login and token lie, mode 0600."""
    return folder / "labelstudio.json"


def load_or_create_account(folder: Path, username: str) -> Account:
    """The folder's account; generated at the first call.

    Raises:
        ConfigError: the file is there but cannot be read, or data is there whose account file is gone.
    """
    path = account_file(folder)
    if path.exists():
        try:
            return Account.model_validate_json(path.read_text())
        except ValidationError as err:
            raise ConfigError(f"{path} is no account file; restore it") from err
    if (folder / "labelstudio" / "label_studio.sqlite3").exists():
        raise ConfigError(
            f"{path} with the password of the database in {folder / 'labelstudio'} is gone; "
            "restore it, or move that folder away to begin anew"
        )
    account = Account(username=username, password=secrets.token_urlsafe(12))
    write_private(path, account.model_dump_json(indent=1))
    return account


def url(assigned: dict[str, int]) -> str:
    """Where annotators open Label Studio."""
    return f"http://127.0.0.1:{assigned['labelstudio']}"


def origins(assigned: dict[str, int]) -> tuple[str, ...]:
    """The web origins under which a browser of this machine may show Label Studio."""
    return (url(assigned), f"http://localhost:{assigned['labelstudio']}")


def find_binary(config: LabelStudioConfig) -> Path:
    """The ``label-studio`` program of the configured environment.

    Raises:
        ConfigError: it is not installed there.
    """
    venv = config.venv or Path(os.environ.get(VENV_VARIABLE) or ".venv-labelstudio")
    program = venv.absolute() / "bin" / "label-studio"
    if not program.exists():
        raise ConfigError(
            f"Label Studio is not installed: {program} is missing; install it with: "
            f"python3.11 -m venv {venv} && {venv}/bin/pip install 'label-studio>=1.23,<1.24' "
            f"(or name another environment in {VENV_VARIABLE})"
        )
    return program


def ensure_secret_key(folder: Path) -> None:
    """See that there is a key which signs sessions and tokens, where Label Studio keeps it: ``.env``.

    Label Studio would make one itself, of which every 50th begins with ``$``; django-environ takes that for
    the name of a variable, so the next start makes another key and refuses every token (measured with
    Label Studio 1.23, django-environ 0.10: 75 of 4,000 keys).
    """
    path = private_folder(folder / "labelstudio") / ".env"
    if not path.exists():
        write_private(path, f"SECRET_KEY={secrets.token_hex(32)}\n")


def _environment(
    folder: Path, assigned: dict[str, int], account: Account, database: postgres.Database | None
) -> dict[str, str]:
    """A small environment on purpose: Label Studio also reads bare names such as HOST, PORT and USERNAME."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "SSL_CERT_FILE")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "NO_PROXY": "127.0.0.1,localhost",
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "labelstudio"),
        # By environment, not by option: the command line is visible to every user of the machine.
        "LABEL_STUDIO_USERNAME": account.username,
        "LABEL_STUDIO_PASSWORD": account.password,
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        # SQLite in WAL mode, which this option turns on as a side effect.
        "LABEL_STUDIO_AZURE_MOUNT_FIX": "1",
        # S3, the ML backend and webhooks of a local stack are on loopback, which the SSRF guard refuses.
        "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "false",
        "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false",
        "EDITOR_KEYMAP": EDITOR_KEYMAP,
        "CSRF_TRUSTED_ORIGINS": ",".join(origins(assigned)),
        **({} if database is None else database.environment()),
    }


def _probe_health(address: str) -> str | None:
    try:
        with httpx.Client(trust_env=False, timeout=5) as http:
            status = http.get(f"{address}/health").status_code
    except httpx.HTTPError:
        return "it is not listening yet"
    return None if status == httpx.codes.OK else f"health answers {status}"


def _ensure_token(folder: Path, address: str, account: Account) -> None:
    """See that the recorded token is accepted; if not, make a new one, written down at once."""
    log = processes.log_file(folder, NAME)
    try:
        if account.api_key and login.access_token(address, account.api_key):
            return
        api_key = login.new_token(address, account.username, account.password)
        renewed = account.model_copy(update={"api_key": api_key})
        write_private(account_file(folder), renewed.model_dump_json(indent=1))
        accepted = login.access_token(address, api_key) is not None
    except httpx.HTTPError as err:
        raise ServiceError(f"Label Studio at {address} gives no token: {err}; see {log}") from err
    if not accepted:
        raise ServiceError(f"Label Studio at {address} refuses the token that it just made; see {log}")


def start(
    folder: Path,
    config: LabelStudioConfig,
    assigned: dict[str, int],
    *,
    timeout_s: float,
    on_progress: OnProgress,
) -> None:
    """Start Label Studio, or reuse the one that runs; it counts as up after a real token exchange.

    That exchange also proves that the answer comes from our own server: Label Studio moves silently to the
    next port when it finds its own busy, and only ours knows the generated password.

    Raises:
        ConfigError: the program is missing, the port is in use, or the account file does not fit.
        ServiceError: it does not start or refuses the login.
    """
    address, title = url(assigned), "Label Studio"
    account = load_or_create_account(folder, config.username)
    database = postgres.load_or_choose(folder, config.database, assigned[postgres.NAME])
    if database is not None and database.is_own:
        postgres.start(folder, database, timeout_s=timeout_s, on_progress=on_progress)

    def launch() -> None:
        program = find_binary(config)
        ports.require_free(folder, {NAME: assigned[NAME]})
        argv = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1"]
        argv += ["--port", str(assigned["labelstudio"])]
        on_progress(
            f"{title}: starting" + ("" if account.api_key else " (the first time takes up to a minute)")
        )
        ensure_secret_key(folder)
        environment = _environment(folder, assigned, account, database)
        processes.spawn(folder, NAME, argv, env=environment, cwd=folder / "labelstudio")

    reused = processes.bring_up(
        folder,
        NAME,
        title,
        launch=launch,
        probe=lambda: _probe_health(address),
        timeout_s=timeout_s,
        on_progress=on_progress,
    )
    _ensure_token(folder, address, account)
    on_progress(f"{title}: {'already runs' if reused else 'ready'} at {address}")
