"""``sonoloop push``: drafts to Label Studio, one task per case, one prediction per model version."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.labelstudio import image_storage, open_project
from sonoloop.jobs.output import ConfigOption, JsonOption, progress, show
from sonoloop.jobs.runs import stage
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform import registry
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.labelstudio.predictions import prediction_of, task_data, version_name
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.platform.records import CaseRecord, DraftRecord
from sonoloop.platform.tables import read_cases, read_drafts
from sonoloop.platform.workspace import Store


class PushSummary(BaseModel):
    """What Label Studio has now that it had not before."""

    project: str
    project_url: str
    model_version: str
    cases: int
    new_tasks: int
    new_predictions: int
    unchanged: int


def push(
    config: ConfigOption = "sonoloop.toml",
    budget: Annotated[
        int | None, typer.Option(min=1, help="At most this many cases that have no task yet.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Bring drafts to Label Studio: one task per case, one prediction per model version."""
    show(run_push(load_config(config), budget=budget), title="push", as_json=json)


def run_push(config: Config, *, budget: int | None = None) -> PushSummary:
    """Bring the champion's drafts to Label Studio; the same call again changes nothing.

    Cases that have a task get the champion's prediction beside the older ones; ``budget`` bounds only the
    new tasks.

    Raises:
        NothingToDoError: the champion has no draft.
        ConfigError: no API key, or the workspace is not on S3.
        ServiceError: Label Studio does not answer or refuses.
    """
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name)
    drafts = read_drafts(workspace, model_version=version, prompt_version=PROMPT_VERSION)
    drafted = {draft.case_id: draft for draft in drafts if draft.status == "draft"}
    if not drafted:
        raise NothingToDoError(f"model {version} has no drafts to show; run `sonoloop annotate` first")
    with open_project(config) as (door, project), stage("push") as counts:
        door.ensure_storage(project.id, image_storage(workspace))
        with_task = {task.data.case_id for task in door.all_tasks(project.id)}
        uploads = _uploads(workspace, drafted, with_task, budget)
        result = upload(
            door,
            project.id,
            uploads,
            on_progress=lambda done: progress.print(f"push: {done} more of {len(uploads)} cases"),
        )
        door.use_version(project.id, version_name(version, PROMPT_VERSION))
        counts.update(cases=len(uploads), tasks=result.num_new_tasks)
    return PushSummary(
        project=project.title,
        project_url=f"{config.labelstudio.url}/projects/{project.id}/data",
        model_version=version,
        cases=len(uploads),
        new_tasks=result.num_new_tasks,
        new_predictions=result.num_new_predictions,
        unchanged=result.num_unchanged,
    )


def _uploads(
    workspace: Store, drafted: dict[str, DraftRecord], with_task: set[str | None], budget: int | None
) -> list[CaseUpload]:
    cases = [case for case in read_cases(workspace) if case.case_id in drafted]
    known = [case for case in cases if case.case_id in with_task]
    fresh = [case for case in cases if case.case_id not in with_task][:budget]
    return [_upload(workspace, case, drafted[case.case_id]) for case in (*known, *fresh)]


def _upload(workspace: Store, case: CaseRecord, draft: DraftRecord) -> CaseUpload:
    return CaseUpload(task_data(case, workspace.uri), prediction_of(draft))
