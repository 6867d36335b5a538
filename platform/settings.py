"""Reading one TOML file into a tree of frozen models, with overrides from the environment.

``SONOLOOP__ANNOTATE__CASES_PER_UNIT=8`` overrides ``cases_per_unit`` of ``[annotate]``. Done here rather than
with pydantic-settings because that one ignores environment keys it does not know; here a typo fails and the
nearest known key is named.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.workspace import S3Config, store_of

PREFIX = "SONOLOOP__"
M = TypeVar("M", bound=BaseModel)


def parse_settings(model: type[M], text: str, environment: Mapping[str, str], *, source: str) -> M:
    """Build a settings tree from TOML text and the environment's overrides.

    Args:
        model: The root of the tree.
        text: TOML.
        environment: Variables; those that start with ``SONOLOOP__`` override.
        source: What the text is called in messages.

    Raises:
        ConfigError: not TOML, an unknown key (the nearest known one is named), or an impossible value.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{source} is not valid TOML: {err}") from err
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        _override(values, name.removeprefix(PREFIX).lower().split("__"), environment[name])
    try:
        return model.model_validate(values)
    except ValidationError as err:
        raise ConfigError(f"{source}: " + "; ".join(_explain(model, item) for item in err.errors())) from err


def read_settings(model: type[M], source: str) -> M:
    """Read a settings file from a path or an ``s3://`` URI; this process's environment overrides.

    Raises:
        ConfigError: no such file, or its content cannot be used.
        StorageError: S3 refuses or does not answer.
    """
    text = read_text(source, "no configuration at {}; examples/sonoloop.toml shows one")
    return parse_settings(model, text, os.environ, source=source)


def read_text(source: str, missing: str, s3: S3Config | None = None) -> str:
    """A text file that a person named: a path or an ``s3://`` URI.

    Args:
        source: What was named.
        missing: What to say where there is no such file; ``{}`` is its name.
        s3: How to reach S3.

    Raises:
        ConfigError: no such file, or it is no text.
        StorageError: S3 refuses or does not answer.
    """
    try:
        if source.startswith("s3://"):
            folder, _, name = source.rpartition("/")
            return store_of(folder, s3 or S3Config()).read_bytes(name).decode()
        return Path(source).read_text()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as err:
        raise ConfigError(missing.format(source)) from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{source} cannot be read as text ({type(err).__name__})") from err


def settings_hash(settings: BaseModel) -> str:
    """12 hex digits that name these exact settings."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]


def _override(values: dict[str, Any], keys: list[str], text: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{PREFIX}{'__'.join(keys).upper()}: {key!r} is a value, not a section")
    try:
        values[keys[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[keys[-1]] = text


def _explain(model: type[BaseModel], item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(
            str(item["loc"][-1]), _known(model, item["loc"][:-1]), n=1, cutoff=0.4
        )
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {place!r}{hint}"
    if item["type"] == "missing":
        return f"required key {place!r} is missing"
    return f"{place}: {item['msg']}"


def _known(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
