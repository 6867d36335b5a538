"""``sonoloop adjudicate``: cases that readers disagree on, to a project where somebody settles them.

One task per case, for ever, with each reader's answer as a prediction. The next ``sonoloop pull`` brings the
decisions back; a case is disputed no more once it is decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.labelstudio import image_storage, open_project
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import stage
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.labelstudio.adjudication import adjudication_title, reader_prediction
from sonoloop.platform.labelstudio.answers import Project
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.predictions import TaskData, task_data
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.platform.records import ReviewRecord
from sonoloop.platform.tables import disputed_cases, read_cases_of
from sonoloop.platform.tasks import TaskRecord, project_key, read_tasks, write_tasks
from sonoloop.platform.workspace import Store


class AdjudicateSummary(BaseModel):
    """What waits for a decision."""

    project: str
    project_url: str
    disputed: int
    without_images: int
    new_tasks: int
    new_answers: int


def adjudicate(config: ConfigOption = "sonoloop.toml", json: JsonOption = False) -> None:
    """Bring cases that readers disagree on to a project where somebody settles them."""
    show(run_adjudicate(load_config(config)), title="adjudicate", as_json=json)


def run_adjudicate(config: Config) -> AdjudicateSummary:
    """Make a task of every disputed case; the same call again changes nothing.

    Raises:
        NothingToDoError: no case is disputed.
        ConfigError: no API key, or the workspace is not on S3.
        ServiceError: Label Studio does not answer or refuses.
    """
    workspace = config.open_workspace()
    disputed = disputed_cases(workspace)
    if not disputed:
        raise NothingToDoError("no case is disputed: readers agree, or no case was read by two of them")
    cases = read_cases_of(workspace, disputed)
    shown = {case_id: task_data(case, workspace.uri) for case_id, case in cases.items()}
    answers = {case_id: disputed[case_id] for case_id in sorted(shown)}
    with open_project(config) as (door, project), stage("adjudicate") as counts:
        court = door.ensure_project(adjudication_title(project.title), project.label_config)
        door.ensure_storage(court.id, image_storage(workspace))
        num_tasks, num_predictions = _send(door, court, shown, answers)
        # An import makes its version the one that is shown; with none, every reader's answer is.
        door.use_version(court.id, "")
        _note(workspace, door, court.id, list(answers))
        counts.update(cases=len(answers), tasks=num_tasks)
    return AdjudicateSummary(
        project=court.title,
        project_url=f"{config.labelstudio.url}/projects/{court.id}/data",
        disputed=len(disputed),
        without_images=len(disputed) - len(shown),
        new_tasks=num_tasks,
        new_answers=num_tasks + num_predictions,
    )


def _send(
    door: LabelStudioDoor,
    court: Project,
    shown: Mapping[str, TaskData],
    answers: Mapping[str, Sequence[ReviewRecord]],
) -> tuple[int, int]:
    """The first reader's answer makes the task, each further one is a prediction beside it.

    Returns:
        How many tasks are new, and how many predictions are, beside those of the new tasks.
    """
    num_tasks = num_predictions = 0
    for place in range(max(map(len, answers.values()), default=0)):
        uploads = [
            CaseUpload(shown[case_id], reader_prediction(rows[place], court.label_config))
            for case_id, rows in answers.items()
            if place < len(rows)
        ]
        sent = upload(door, court.id, uploads)
        num_tasks += sent.num_new_tasks
        num_predictions += sent.num_new_predictions
    return num_tasks, num_predictions


def _note(workspace: Store, door: LabelStudioDoor, project_id: int, case_ids: Sequence[str]) -> None:
    """Write tasks that the ledger lacks into it."""
    project = project_key(door.config.url, project_id)
    known = read_tasks(workspace, project)
    now = datetime.now(UTC)
    records = [
        TaskRecord(
            project=project,
            case_id=str(task.data.case_id),
            task_id=task.id,
            purpose="adjudication",
            strategy="disputed",
            num_readers=1,
            model_version=None,
            state="sent",
            written_at=now,
        )
        for task in door.tasks_of(project_id, [case_id for case_id in case_ids if case_id not in known])
    ]
    write_tasks(workspace, records)
