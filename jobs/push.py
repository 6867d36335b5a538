"""``sonoloop push``: drafts to Label Studio, one task per case, one prediction per model version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.calibrating import read_calibrator
from sonoloop.jobs.config import Config, PushOrder, load_config
from sonoloop.jobs.labelstudio import image_storage, open_project
from sonoloop.jobs.output import ConfigOption, JsonOption, progress, show
from sonoloop.jobs.runs import stage
from sonoloop.model.calibration import case_confidence
from sonoloop.platform import registry
from sonoloop.platform.duplicates import one_of_each, read_groups
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.labelstudio.predictions import prediction_of, task_data, version_name
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.platform.tables import read_cases, read_drafts


class PushSummary(BaseModel):
    """What Label Studio has now that it had not before."""

    project: str
    project_url: str
    model_version: str
    order: str
    calibrated: bool
    cases: int
    new_tasks: int
    new_predictions: int
    unchanged: int
    near_duplicates: int


def push(
    config: ConfigOption = "sonoloop.toml",
    budget: Annotated[
        int | None, typer.Option(min=1, help="At most this many cases that have no task yet.")
    ] = None,
    near_duplicates: Annotated[
        bool,
        typer.Option("--near-duplicates", help="New tasks also for cases that share a picture with another."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring drafts to Label Studio: one task per case, one prediction per model version."""
    summary = run_push(load_config(config), budget=budget, near_duplicates=near_duplicates)
    show(summary, title="push", as_json=json)


def run_push(config: Config, *, budget: int | None = None, near_duplicates: bool = False) -> PushSummary:
    """Bring the champion's drafts to Label Studio; the same call again changes nothing.

    Cases that have a task get the champion's prediction beside the older ones; ``budget`` bounds only the
    new tasks and takes them in ``push.order``. A prediction's score is the case's confidence, calibrated
    where the champion has a calibrator; the score of a prediction that is there already stays as it was.
    Of cases that share a picture only one gets a task, the first in ``push.order``, unless
    ``near_duplicates`` asks for all; tasks that are there stay.

    Raises:
        NothingToDoError: the champion has no draft.
        ConfigError: no API key, or the workspace is not on S3.
        ServiceError: Label Studio does not answer or refuses.
    """
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name)
    prompt_version = config.annotate.prompt_version
    drafts = read_drafts(workspace, model_version=version, prompt_version=prompt_version)
    drafted = {draft.case_id: draft for draft in drafts if draft.status == "draft"}
    if not drafted:
        raise NothingToDoError(f"model {version} has no drafts to show; run `sonoloop annotate` first")
    calibrator = read_calibrator(workspace, version, prompt_version)
    with open_project(config) as (door, project), stage("push") as counts:
        door.ensure_storage(project.id, image_storage(workspace))
        with_task = {task.data.case_id for task in door.all_tasks(project.id)}
        scores = {case_id: case_confidence(draft, calibrator) for case_id, draft in drafted.items()}
        cases = {case.case_id: case for case in read_cases(workspace) if case.case_id in drafted}
        fresh = in_order(cases.keys() - with_task, scores, config.push.order)
        groups = {} if near_duplicates else read_groups(workspace)
        single = one_of_each(fresh, groups, taken=with_task)
        uploads = [
            CaseUpload(task_data(cases[key], workspace.uri), prediction_of(drafted[key], score=scores[key]))
            for key in (*sorted(cases.keys() & with_task), *single[:budget])
        ]
        result = upload(
            door,
            project.id,
            uploads,
            on_progress=lambda done: progress.print(f"push: {done} more of {len(uploads)} cases"),
        )
        shown, least_sure_first = version_name(version, prompt_version), config.push.order == "uncertain"
        door.use_version(project.id, shown, least_sure_first=least_sure_first)
        counts.update(cases=len(uploads), tasks=result.num_new_tasks)
    return PushSummary(
        project=project.title,
        project_url=f"{config.labelstudio.url}/projects/{project.id}/data",
        model_version=version,
        order=config.push.order,
        calibrated=calibrator is not None,
        cases=len(uploads),
        new_tasks=result.num_new_tasks,
        new_predictions=result.num_new_predictions,
        unchanged=result.num_unchanged,
        near_duplicates=len(fresh) - len(single),
    )


def in_order(case_ids: Iterable[str], scores: Mapping[str, float | None], order: PushOrder) -> list[str]:
    """Cases in the order in which people should see them; equal ones by case id.

    A case without a score is one that nobody can be sure of.

    Args:
        case_ids: The cases.
        scores: Confidence of each case, 0..1.
        order: Least sure first, surest first, or by case id alone.
    """
    if order == "archive":
        return sorted(case_ids)
    sign = 1 if order == "uncertain" else -1
    return sorted(case_ids, key=lambda case_id: (sign * (scores[case_id] or 0.0), case_id))
