"""Pages of reference, written from the code that they describe: verbs, settings, tables, codes, reasons."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from sonoloop.jobs.cli import GROUP, VERBS
from sonoloop.jobs.config import Config
from sonoloop.platform import errors
from sonoloop.platform.columns import is_added
from sonoloop.platform.records import Record
from sonoloop.serve.config import ServeConfig

TABLES = (
    "sonoloop.platform.archive.rows",
    "sonoloop.platform.records",
    "sonoloop.platform.duplicates",
    "sonoloop.platform.tasks",
    "sonoloop.jobs.freezing.rows",
    "sonoloop.jobs.freezing.register",
    "sonoloop.jobs.evaluating.outcomes",
)
"""Modules whose docstring describes the tables of their records."""


def write_pages(folder: Path) -> None:
    """Write all pages of reference as Markdown; a page that is as it was keeps its time.

    Args:
        folder: Made if absent.
    """
    folder.mkdir(exist_ok=True)
    pages = {"cli": cli_page, "settings": settings_page, "tables": tables_page, "exits": exits_page}
    for name, make in pages.items():
        path, text = folder / f"{name}.md", make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def cli_page() -> str:
    """Every verb with its options, in the order of the loop."""
    parts = ["# Command line\n\nWhat `sonoloop VERB --help` says.\n"]
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    for verb, summary in VERBS.items():
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(verb, help=summary)(entries[verb].load())
        command = typer.main.get_command(single)
        context = command.make_context(f"sonoloop {verb}", [], resilient_parsing=True)
        parts.append(get_docs_for_click(obj=command, ctx=context, name=f"sonoloop {verb}", indent=1))
    return "\n".join(parts)


def settings_page() -> str:
    """Every key of ``sonoloop.toml``, section by section."""
    parts = [
        "# Settings\n\nEvery key of `sonoloop.toml`. Any of them can be set from the environment as well: "
        "`SONOLOOP__ANNOTATE__NUM_ACTORS=8`. A key that is not here is refused.\n"
    ]
    parts += [_section(name, model) for name, model in _sections("", Config)]
    parts += [_section(name, model) for name, model in _sections("serve", ServeConfig)]
    return "\n".join(parts)


def _sections(name: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield name, model
    for key, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            yield from _sections(f"{name}.{key}".strip("."), inner)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that stand for a section; those in lists and maps are values."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []


def _section(name: str, model: type[BaseModel]) -> str:
    lines = [f"## {f'`[{name}]`' if name else 'At the top'}", "", inspect.getdoc(model) or "", ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        if not _models_in(field.annotation):
            lines.append(
                f"| `{key}` | {_type(field)} | {_default(field)} | {_cell(field.description or '')} |"
            )
    rows = len(lines) > 6
    return "\n".join(lines if rows else lines[:3]) + "\n"


def _type(field: FieldInfo) -> str:
    said = inspect.formatannotation(field.annotation) if field.annotation else ""
    limits = ", ".join(
        f"{sign} {getattr(part, name)}"
        for part in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(part, name, None) is not None
    )
    plain = said.replace("typing.", "").replace("pathlib.", "").replace(" | None", "")
    return _cell(f"`{plain}`" + (f", {limits}" if limits else ""))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return _cell(f"`{value!r}`" if value is not None else "absent")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def tables_page() -> str:
    """Every table of the workspace: what its columns mean, then their types as they are written."""
    parts = [
        "# Tables of the workspace\n\nAll Parquet. What a column means first, then the types as written.\n"
    ]
    for name in TABLES:
        module = importlib.import_module(name)
        parts.append(f"## {name}\n\n{inspect.getdoc(module)}\n")
        parts += [_schema(record) for record in _records_of(module)]
    return "\n".join(parts)


def _records_of(module: types.ModuleType) -> list[type[Record]]:
    found = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Record)]
    return [record for record in found if record.__module__ == module.__name__ and record is not Record]


def _schema(record: type[Record]) -> str:
    lines = [f"### {record.__name__}", "", "| column | type | in older tables |", "|---|---|---|"]
    lines += [
        f"| `{field.name}` | `{field.type}` | {'may be absent' if is_added(field) else ''} |"
        for field in record.ARROW
    ]
    return "\n".join(lines) + "\n"


def exits_page() -> str:
    """Exit codes of every verb, and reasons of rejections."""
    lines = ["# Exit codes and reasons", "", "## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += ["| 0 | done, or nothing was left to do |"]
    for code, error in sorted(_exit_codes().items()):
        lines.append(f"| {code} | {_cell((inspect.getdoc(error) or '').splitlines()[0])} |")
    lines += ["", "## Reasons of rejections", "", *(f"- `{reason.value}`" for reason in errors.Reason)]
    return "\n".join(lines) + "\n"


def _exit_codes() -> dict[int, type[errors.SonoloopError]]:
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    found = [value for value in classes if issubclass(value, errors.SonoloopError)]
    return {error.exit_code: error for error in reversed(found)}
