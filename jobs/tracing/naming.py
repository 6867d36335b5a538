"""What a person means by a word: a model by alias or version, a task by number, a case by its id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

import pyarrow.dataset as ds

from sonoloop.jobs.config import Config
from sonoloop.jobs.tracing.cases import find_case
from sonoloop.jobs.tracing.ledgers import tasks_where
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.sorted_rooms import CASES, KeyRange, RoomReader
from sonoloop.platform.tasks import project_key
from sonoloop.platform.workspace import Store

_TASK = re.compile(r"(?:(\w+):)?(\d{1,18})")
_NUM_HINTS = 3
_SHARED = 4
"""Characters at the beginning that a case id must share with the word to be hinted at."""


@dataclass(frozen=True)
class NamedModel:
    """A model version."""

    model_version: str


@dataclass(frozen=True)
class NamedCase:
    """A case, and the task it was named by, if it was."""

    case: CaseRecord
    task: str | None = None


def what_is(config: Config, workspace: Store, word: str) -> NamedModel | NamedCase:
    """What the workspace knows by a word.

    Args:
        config: ``[model] name`` is the line of an alias or a bare version; ``[labelstudio] url`` makes the
            key of a project that is given by its number.
        workspace: Where it is looked up.
        word: An alias, ``name/version``, a version, a case id, a task id or ``project:task``.

    Raises:
        ConfigError: nothing is known by it, or several tasks are; the message says what comes near.
        StorageError: the workspace cannot be read.
    """
    if word in Aliases.model_fields:
        return NamedModel(registry.resolve(workspace, config.model.name, word))
    version = registry.resolve(workspace, config.model.name, word)
    if re.fullmatch(r"[^/:]+/[^/:]+", version) and registry.is_version(workspace, version):
        return NamedModel(version)
    if "/" not in word and (case := find_case(workspace, word)) is not None:
        return NamedCase(case)
    if (found := _TASK.fullmatch(word)) and (named := _by_task(config, workspace, *found.groups())):
        return named
    raise ConfigError(
        f"nothing is known by {word!r}: expected a model ({', '.join(Aliases.model_fields)} or "
        f"name/version), a case id, a task id or project:task; {_hints(config, workspace, word)}"
    )


def _by_task(config: Config, workspace: Store, project: str | None, number: str) -> NamedCase | None:
    is_it = ds.field("task_id") == int(number)
    if project is not None:
        keys = {project, *([project_key(config.labelstudio.url, int(project))] if project.isdigit() else ())}
        is_it &= ds.field("project").isin(sorted(keys))
    rows = tasks_where(workspace, is_it).to_pylist()
    if len(rows) > 1:
        names = ", ".join(f"{row['project']}:{row['task_id']}" for row in rows[:_NUM_HINTS])
        raise ConfigError(f"task {number} is in {len(rows)} projects; say which: {names}")
    if not rows:
        return None
    task = f"{rows[0]['project']}:{rows[0]['task_id']}"
    case = find_case(workspace, rows[0]["case_id"])
    if case is None:
        raise ConfigError(f"task {task} shows case {rows[0]['case_id']}, which the workspace does not hold")
    return NamedCase(case, task)


def _hints(config: Config, workspace: Store, word: str) -> str:
    versions = registry.model_versions(workspace)
    own = {version.partition("/")[2]: version for version in versions}
    near = get_close_matches(word, [*Aliases.model_fields, *versions, *own], n=_NUM_HINTS, cutoff=0.6)
    hints = [own.get(name, name) for name in near] + _cases_near(workspace, word)
    if hints:
        return f"near it: {', '.join(dict.fromkeys(hints))}"
    return f"`sonoloop status` names the models of {config.model.name}"


def _cases_near(workspace: Store, word: str) -> list[str]:
    """Case ids that begin with the word, or as it does."""
    for beginning in dict.fromkeys((word, word[:-1], word[: len(word) // 2], word[:_SHARED])):
        if len(beginning) >= _SHARED:
            keys = KeyRange(beginning, beginning + chr(0x10FFFF))
            found = RoomReader(workspace, CASES, columns=("case_id",)).read(keys)["case_id"].to_pylist()
            if found:
                return [str(case_id) for case_id in found[:_NUM_HINTS]]
    return []
