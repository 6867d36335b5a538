"""What the running stack tells others: its addresses, and the variables under which clients find it."""

from __future__ import annotations

import json
import os
import secrets
import shlex
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.stack import labelstudio, ports, ray_head, s3
from sonoloop.platform.stack.files import write_private

_SECRETS = ("SONOLOOP_PSEUDONYM_KEY", "SONOLOOP_API_KEY")


class StackInfo(BaseModel):
    """Addresses of the services that were started; ``None`` for one that was not. Holds no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    env_file: Path = Field(description="file with all variables, secrets included, for a shell to source")
    s3_endpoint: str | None = None
    buckets: tuple[str, ...] = ()
    image_bucket: str | None = None
    labelstudio_url: str | None = None
    labelstudio_username: str | None = None
    labelstudio_account_file: Path | None = Field(
        default=None, description="file with the password and the token"
    )
    ray_address: str | None = None
    dashboard_url: str | None = None


def info_file(folder: Path) -> Path:
    """Where the description of the running stack lies; holds no secret."""
    return folder / "stack.json"


def info(folder: Path) -> StackInfo:
    """The stack that was last started in ``folder``.

    Raises:
        ConfigError: none was, or it was stopped.
    """
    path = info_file(folder.absolute())
    try:
        return StackInfo.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"no stack runs in {folder}; start one with: sonoloop up --folder {folder}"
        ) from None
    except ValidationError as err:
        raise ConfigError(f"{path} is no stack description; remove it and run sonoloop up again") from err


def _own_secrets(folder: Path) -> dict[str, str]:
    """Keys of sonoloop itself, generated once: 256 bits each."""
    path = folder / "secrets.json"
    if not path.exists():
        write_private(path, json.dumps({name: secrets.token_hex(32) for name in _SECRETS}, indent=1))
    try:
        values = json.loads(path.read_text())
        return {name: str(values[name]) for name in _SECRETS}
    except (ValueError, LookupError, TypeError) as err:
        # Never regenerated: pseudonyms made under another key would no longer match.
        raise ConfigError(f"{path} does not hold {' and '.join(_SECRETS)}; restore it") from err


def variables_of(planned: StackInfo) -> dict[str, str]:
    """The variables of a stack that runs, or is about to; keys are generated where they are missing.

    Raises:
        ConfigError: a secret file is damaged.
    """
    folder = planned.folder
    assigned = ports.recorded(folder)
    variables = _own_secrets(folder)
    direct = [name for name in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",") if name]
    loopback = ("127.0.0.1", "localhost")
    variables["NO_PROXY"] = variables["no_proxy"] = ",".join(dict.fromkeys((*direct, *loopback)))
    if planned.s3_endpoint:
        keys = s3.load_or_create_keys(folder)
        variables["AWS_ACCESS_KEY_ID"] = keys.access_key
        variables["AWS_SECRET_ACCESS_KEY"] = keys.secret_key.get_secret_value()
        variables["AWS_ENDPOINT_URL"] = planned.s3_endpoint
        # boto3 reads the one, other clients the other.
        variables["AWS_REGION"] = variables["AWS_DEFAULT_REGION"] = s3.REGION
    if planned.labelstudio_url and planned.labelstudio_username:
        account = labelstudio.load_or_create_account(folder, planned.labelstudio_username)
        variables["LABEL_STUDIO_URL"] = planned.labelstudio_url
        if account.api_key:
            variables["LABEL_STUDIO_API_KEY"] = account.api_key
    if planned.ray_address:
        variables.update(ray_head.environment(folder, assigned))
    return variables


def environment(folder: Path) -> dict[str, str]:
    """The variables under which our commands, and boto3, pyarrow and Ray, find the stack of ``folder``.

    Secrets are in here and in the folder's private files, nowhere else. Put them into ``os.environ`` before
    the first ``import ray``: Ray 2.60 reads ``RAY_AUTH_MODE`` when its library loads and never again.

    Raises:
        ConfigError: no stack was started in ``folder``, or one of its secret files is damaged.
    """
    return variables_of(info(folder))


def publish(described: StackInfo) -> None:
    """Write ``stack.json`` and the ``env`` file that a shell can source."""
    write_private(info_file(described.folder), described.model_dump_json(indent=1))
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables_of(described).items()]
    write_private(described.env_file, "".join(lines))


def withdraw(folder: Path) -> None:
    """Remove what `publish` wrote."""
    info_file(folder).unlink(missing_ok=True)
    (folder / "env").unlink(missing_ok=True)
