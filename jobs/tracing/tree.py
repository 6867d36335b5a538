"""A lineage as a person reads it: one branch for each part, one line for each thing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich.markup import escape
from rich.tree import Tree

from sonoloop.platform.registry import Span


def as_tree(lineage: BaseModel, title: str) -> Tree:
    """The parts of a lineage that say something, in its own order."""
    tree = Tree(escape(title))
    for name in type(lineage).model_fields:
        _add(tree, name.replace("_", " "), getattr(lineage, name))
    return tree


def _add(tree: Tree, name: str, value: Any) -> None:
    if value is None or value is False or value in ((), {}):
        return
    if isinstance(value, Mapping):
        _branch(tree, name, [f"{key}: {number}" for key, number in value.items()])
    elif isinstance(value, tuple):
        _branch(tree, f"{name} ({len(value)})", [_line(one) for one in value])
    elif isinstance(value, BaseModel):
        branch = tree.add(escape(f"{name}: {value}"))
        for inner in type(value).model_fields:
            if isinstance(getattr(value, inner), Mapping):
                _add(branch, inner.replace("_", " "), getattr(value, inner))
    else:
        tree.add(escape(f"{name}: {_line(value)}"))


def _branch(tree: Tree, name: str, lines: list[str]) -> None:
    branch = tree.add(escape(name))
    for line in lines:
        branch.add(escape(line))


def _line(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, Span):
        until = f"until {_line(value.until)}" if value.until else "until now"
        return f"{value.alias} from {_line(value.since)} {until} ({value.by})"
    return str(value)
