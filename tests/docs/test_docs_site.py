"""The site builds without a warning, and what it says of verbs, options, settings and reasons exists."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from sonoloop.jobs.cli import GROUP, VERBS
from sonoloop.jobs.config import Config
from sonoloop.platform.errors import Reason
from sonoloop.serve.config import ServeConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"sonoloop ([a-z]+)((?: [^`|#\n;&]*)?)")
FOREIGN = re.compile(r"<(?:script|img|iframe)[^>]+src=\"https?:|<link[^>]+stylesheet[^>]+href=\"https?:")
KEY = re.compile(r"`\[([a-z0-9_.]+)\] ([a-z0-9_]+)")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    argv = ["-W", "--keep-going", "-n", "-q", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for page in ("index", "reference/cli", "reference/settings", "reference/tables", "reference/exits"):
        assert (tmp_path / f"{page}.html").exists()
    for page in tmp_path.rglob("*.html"):
        assert not FOREIGN.search(page.read_text()), f"{page.name} loads from elsewhere"
    assert "--retry-rejected" in (tmp_path / "reference" / "cli.html").read_text()
    assert "cases_per_unit" in (tmp_path / "reference" / "settings.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_verbs_and_options_that_a_page_names_exist(page: Path) -> None:
    for verb, rest in COMMAND.findall("\n".join(_commands_of(page.read_text()))):
        assert verb in VERBS, f"{page.name} names sonoloop {verb}"
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert option in _options(verb), f"{page.name}: sonoloop {verb} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    for section, key in KEY.findall(page.read_text()):
        model = _section(section)
        assert key in model.model_fields, f"{page.name}: [{section}] has no {key}"


def test_every_reason_of_a_rejection_is_explained() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in text] == []


def _commands_of(text: str) -> list[str]:
    """Lines of shell blocks, and what stands in backticks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return lines + re.findall(r"(?<!`)`(sonoloop [^`]+)`", text)


@cache
def _options(verb: str) -> set[str]:
    (entry,) = entry_points(group=GROUP, name=verb)
    single = typer.Typer(add_completion=False)
    single.command(verb)(entry.load())
    command = typer.main.get_command(single)
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


def _section(name: str) -> type[BaseModel]:
    first, *rest = name.split(".")
    model: type[BaseModel] = ServeConfig if first == "serve" else _inner(Config, first)
    for part in rest:
        model = _inner(model, part)
    return model


def _inner(model: type[BaseModel], name: str) -> type[BaseModel]:
    field = model.model_fields[name]
    args = getattr(field.annotation, "__args__", (field.annotation,))
    return next(part for part in args if isinstance(part, type) and issubclass(part, BaseModel))
