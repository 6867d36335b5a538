"""Logs of the driver, of Ray's workers and of Serve: lines for people, or a JSON object a line for machines.

| key | what |
|---|---|
| time | UTC, ISO 8601, milliseconds |
| level, logger, message | as the standard library has them |
| process | id of the process |
| run_id | the run that this process works for, where it is known |
| request_id | the HTTP request that is being answered, where there is one |
| error, frames | type of the exception, and where it came from; never its text, which may quote a record |

Lines for people leave the text of an exception out as well.

``SONOLOOP_LOG`` (``text`` or ``json``) goes before ``[log] format``. A cluster's workers are told by the
driver, when it connects (`ray_options`).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import ConfigError

FORMAT_VARIABLE, LEVEL_VARIABLE = "SONOLOOP_LOG", "SONOLOOP_LOG_LEVEL"
LogFormat = Literal["text", "json"]
_FORMATS: dict[str, LogFormat] = {"text": "text", "json": "json"}
_request_id: ContextVar[str | None] = ContextVar("sonoloop_request_id", default=None)
_run_id: str | None = None


class LogConfig(BaseModel):
    """How the programs write their logs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: LogFormat = Field(
        default="text", description="text for people, json for machines; the variable SONOLOOP_LOG goes first"
    )


class JsonFormatter(logging.Formatter):
    """One JSON object a line, see the module."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break in it."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        line |= {name: value for name, value in _known_ids() if value is not None}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = type(record.exc_info[1]).__name__
            line["frames"] = _frames(record.exc_info[1])
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """A line for people, and where an exception came from."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and those of the exception, if there is one."""
        record.exc_text = None  # another handler's words, which would be taken for ours
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802, the standard library's name
        """Its frames and type."""
        error = ei[1]
        return "\n".join((*(f"  at {at}" for at in _frames(error)), f"  {type(error).__name__}"))


def _known_ids() -> tuple[tuple[str, str | None], ...]:
    return ("run_id", _run_id), ("request_id", _request_id.get())


def _frames(error: BaseException) -> list[str]:
    """Where an exception came from, outermost first, without what it says."""
    return [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(error.__traceback__)]


class _Handler(logging.Handler):
    """Writes to what is stderr at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; the lock of `handle` keeps lines whole."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # a full disk or a closed pipe stops no work
            self.handleError(record)


def set_up() -> None:
    """Log to stderr, as the environment asks, until a configuration is known.

    Raises:
        ConfigError: the environment asks for what there is not.
    """
    _install(_asked_format() or "text", _level())


def follow(config: LogConfig) -> None:
    """As the environment or the configuration asks, in a program that has set up its logs.

    Raises:
        ConfigError: the environment asks for what there is not.
    """
    if _own_handlers():
        _install(_asked_format() or config.format, _level())


def _install(log_format: LogFormat, level: str | None) -> None:
    """Levels: as asked for all; else warnings, and from us for machines all that is worth a line."""
    root = logging.getLogger()
    for old in _own_handlers():
        root.removeHandler(old)
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root.addHandler(handler)
    root.setLevel(level or "WARNING")
    ours = "INFO" if level is None and log_format == "json" else "NOTSET"
    logging.getLogger("sonoloop").setLevel(ours)


def _own_handlers() -> list[_Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]


def _asked_format() -> LogFormat | None:
    wanted = os.environ.get(FORMAT_VARIABLE, "").lower()
    if wanted and wanted not in _FORMATS:
        raise ConfigError(f"{FORMAT_VARIABLE} must be text or json, got {wanted!r}")
    return _FORMATS.get(wanted)


def _level() -> str | None:
    level = os.environ.get(LEVEL_VARIABLE, "").upper()
    if level and level not in logging.getLevelNamesMapping():
        raise ConfigError(f"{LEVEL_VARIABLE} must be one of DEBUG, INFO, WARNING, ERROR, got {level!r}")
    return level or None


def is_json() -> bool:
    """Whether this process logs for machines."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in _own_handlers())


def ray_options() -> dict[str, Any]:
    """Arguments for ``ray.init``: every worker logs for machines where this process does.

    Only then, since a worker with a hook cannot be one that Ray has started in advance.
    """
    return {"runtime_env": {"worker_process_setup_hook": _hook(_level())}} if is_json() else {}


def _hook(level: str | None) -> Callable[[], None]:
    def set_up_worker() -> None:
        _install("json", level)

    return set_up_worker


def in_run(run_id: str | None) -> None:
    """From here on this process works for a run, and its lines say so; or for none."""
    global _run_id
    _run_id = run_id


@contextmanager
def in_request(request_id: str) -> Iterator[None]:
    """Lines of this task, and of what it awaits or gives to threads with its context, name a request."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)
