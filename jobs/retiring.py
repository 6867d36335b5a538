"""Which versions of a model line must keep their weights, and why."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.compute as pc

from sonoloop.jobs.annotating.figures import RunProgress
from sonoloop.jobs.runs import Run, read_runs
from sonoloop.jobs.tracing.ledgers import tasks_where
from sonoloop.model.prompts import draft_recipe
from sonoloop.model.prompts.texts import LANGUAGES
from sonoloop.platform import registry
from sonoloop.platform.records import content_id
from sonoloop.platform.tables import done_cases
from sonoloop.platform.workspace import Store


def needed_versions(workspace: Store, name: str, *, keep: int) -> dict[str, str]:
    """Versions whose weights stay, each with why.

    | why | what |
    |---|---|
    | champion, challenger, previous | what an alias names |
    | beginning of the line | what came from elsewhere and can not be trained again |
    | an unfinished run | what a run under way, or one that was interrupted and may be gone on with, needs |
    | open tasks | what drafted a task that is with people and has no answer yet |
    | among the newest | the ``keep`` newest ones |

    Raises:
        StorageError: the workspace cannot be read.
    """
    versions = registry.model_versions(workspace, name)
    needed = {
        version: alias
        for alias, version in registry.read_aliases(workspace, name).model_dump().items()
        if version is not None
    }
    for version in versions:
        if registry.base_of(registry.read_lineage(workspace, version)) not in versions:
            needed.setdefault(version, "beginning of the line")
    for version, run_id in _of_runs(workspace, name, versions):
        needed.setdefault(version, f"unfinished run {run_id}")
    for version in _of_open_tasks(workspace):
        if version in versions:
            needed.setdefault(version, "open tasks")
    for version in versions[-keep:]:
        needed.setdefault(version, "among the newest")
    return needed


def _of_runs(workspace: Store, name: str, versions: list[str]) -> Iterator[tuple[str, str]]:
    """What unfinished runs need: what they are known to use, and what they must have begun with."""
    changes = registry.alias_changes(workspace, name)
    for run in read_runs(workspace):
        if run.state != "running":
            continue
        text = run.model_dump_json()
        named = {version for version in versions if version in text}
        if run.verb == "finetune":
            named |= _bases_of(workspace, registry.champion_at(changes, run.started_at), versions)
        if run.verb == "annotate":
            named |= _drafting(workspace, run, versions)
        yield from ((version, run.run_id) for version in sorted(named))


def _bases_of(workspace: Store, champion: str | None, versions: list[str]) -> set[str]:
    """The champion that a training began with, and what was upcycled from it."""
    made = {
        version
        for version in versions
        if champion is not None and registry.read_lineage(workspace, version).get("upcycled_from") == champion
    }
    return made | ({champion} if champion is not None else set())


def _drafting(workspace: Store, run: Run, versions: list[str]) -> set[str]:
    """By what the run tells of itself; before it tells anything, by its key, which hashes the version."""
    progress = RunProgress.read(workspace, run.run_id)
    if progress is not None:
        return {progress.model_version}
    prompts = [draft_recipe(language).id for language in LANGUAGES]
    keys = {content_id(version, prompt, length=12): version for version in versions for prompt in prompts}
    version = keys.get(run.key.partition("-")[0])
    return set() if version is None else {version}


def _of_open_tasks(workspace: Store) -> set[str]:
    tasks = tasks_where(workspace)
    tasks = tasks.filter(pc.and_(pc.equal(tasks["state"], "sent"), pc.is_valid(tasks["model_version"])))
    done = done_cases(workspace)
    pairs = zip(tasks["case_id"].to_pylist(), tasks["model_version"].to_pylist(), strict=True)
    return {version for case_id, version in pairs if case_id not in done}
