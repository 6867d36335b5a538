"""Bringing cases into a project: one task per case, one prediction per (task, model version), however often.

Each batch is looked up first and only what is missing is sent. An import that timed out may still land while
we look, so the lookup after one also removes doubles; it never removes what a person has worked on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.answers import SeenTask
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.http import NotFoundError, UncertainError
from sonoloop.platform.labelstudio.predictions import Prediction, TaskData

logger = logging.getLogger(__name__)

_PAUSE_S = 2.0


@dataclass(frozen=True)
class CaseUpload:
    """One case to show: its task and, where there is a draft, its prediction."""

    data: TaskData
    prediction: Prediction | None = None

    @property
    def case_id(self) -> str:
        """The key of the task."""
        return self.data["case_id"]


@dataclass(frozen=True)
class UploadCounts:
    """What became of the cases: each is new, got a prediction, or was there already.

    ``num_refreshed`` counts apart: tasks whose images had changed since they were made.
    """

    num_new_tasks: int = 0
    num_new_predictions: int = 0
    num_unchanged: int = 0
    num_refreshed: int = 0

    def __add__(self, other: UploadCounts) -> UploadCounts:
        return UploadCounts(
            self.num_new_tasks + other.num_new_tasks,
            self.num_new_predictions + other.num_new_predictions,
            self.num_unchanged + other.num_unchanged,
            self.num_refreshed + other.num_refreshed,
        )


@dataclass(frozen=True)
class _Missing:
    """What of a batch the server lacks; predictions and stale data go by the id of their task."""

    tasks: list[CaseUpload] = field(default_factory=list)
    predictions: list[tuple[int, Prediction]] = field(default_factory=list)
    stale: list[tuple[int, TaskData]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.tasks or self.predictions or self.stale)


def upload(
    door: LabelStudioDoor,
    project_id: int,
    cases: Sequence[CaseUpload],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> UploadCounts:
    """Make sure that every case has its task and prediction.

    Args:
        door: The Label Studio.
        project_id: A project with our page.
        cases: Each case once.
        on_progress: Told the number of cases of each finished batch.

    Raises:
        ValueError: a case is given twice.
        ServiceError: the server refuses, or does not take a batch in ``max_attempts`` sends.
    """
    if len({case.case_id for case in cases}) != len(cases):
        raise ValueError("a case is given twice; one draft per case and upload")
    counts = UploadCounts()
    for start in range(0, len(cases), door.config.import_batch):
        batch = cases[start : start + door.config.import_batch]
        counts += _upload_batch(door, project_id, batch)
        on_progress(len(batch))
    return counts


def _upload_batch(door: LabelStudioDoor, project_id: int, batch: Sequence[CaseUpload]) -> UploadCounts:
    first = missing = _missing(door, project_id, batch)
    for attempt in range(door.config.max_attempts):
        if not missing:
            break
        try:
            _send(door, project_id, missing)
        except UncertainError as err:
            logger.warning("%s; asking what got in before sending again", err)
            time.sleep(_PAUSE_S * 2**attempt)
            missing = _missing(door, project_id, batch)
        else:
            # Without doubt after a first send; after a doubtful one the earlier may have landed meanwhile.
            missing = _missing(door, project_id, batch) if attempt else _Missing()
    if missing:
        raise ServiceError(
            f"Label Studio at {door.config.url} did not take a batch of {len(batch)} cases in "
            f"{door.config.max_attempts} sends; see its log, then run the same command again"
        )
    num_tasks, num_predictions = len(first.tasks), len(first.predictions)
    num_unchanged = len(batch) - num_tasks - num_predictions
    return UploadCounts(num_tasks, num_predictions, num_unchanged, len(first.stale))


def _missing(door: LabelStudioDoor, project_id: int, batch: Sequence[CaseUpload]) -> _Missing:
    by_case: dict[str, list[SeenTask]] = {}
    for task in door.tasks_of(project_id, [case.case_id for case in batch]):
        by_case.setdefault(str(task.data.case_id), []).append(task)
    missing = _Missing()
    for case in batch:
        if case.case_id not in by_case:
            missing.tasks.append(case)
            continue
        task = _keep_one(door, by_case[case.case_id])
        if list(task.data.images) != case.data["images"]:
            if task.annotations:  # boxes count on the order of the images, the reviewed ones on the old
                logger.warning("case %s has other images now; its reviewed task stays", case.case_id)
                continue
            missing.stale.append((task.id, case.data))
        if case.prediction and not _keep_one_prediction(door, task, case.prediction["model_version"]):
            missing.predictions.append((task.id, case.prediction))
    return missing


def _send(door: LabelStudioDoor, project_id: int, missing: _Missing) -> None:
    for task_id, data in missing.stale:
        door.update_data(task_id, data)
    path, timeout_s = f"/api/projects/{project_id}/import", door.config.import_timeout_s
    if missing.tasks:
        tasks = [
            {"data": case.data, "predictions": [case.prediction] if case.prediction else []}
            for case in missing.tasks
        ]
        door.connection.write("POST", path, tasks, timeout_s=timeout_s)
    if missing.predictions:
        predictions = [{"task": task_id, **prediction} for task_id, prediction in missing.predictions]
        answer = door.connection.write("POST", f"{path}/predictions", predictions, timeout_s=timeout_s)
        if answer.get("created") != len(predictions):
            raise UncertainError("Label Studio took only some predictions of a batch")


def _keep_one(door: LabelStudioDoor, tasks: list[SeenTask]) -> SeenTask:
    kept = min(tasks, key=lambda task: (not task.annotations, not task.draft_exists, task.id))
    for task in tasks:
        if task is kept:
            continue
        if task.annotations or task.draft_exists:
            logger.warning("tasks %d and %d show the same case and both were worked on", kept.id, task.id)
            continue
        _delete(door, f"/api/tasks/{task.id}/")
        logger.warning("task %d showed the same case as task %d and was removed", task.id, kept.id)
    return kept


def _keep_one_prediction(door: LabelStudioDoor, task: SeenTask, version_name: str) -> bool:
    same = sorted((p for p in task.predictions if p.model_version == version_name), key=lambda p: p.id)
    used = {annotation.parent_prediction for annotation in task.annotations}
    kept = next((p for p in same if p.id in used), same[0] if same else None)
    for prediction in same:
        if prediction is not kept and prediction.id not in used:
            _delete(door, f"/api/predictions/{prediction.id}/")
            logger.warning("a second prediction of one model version on task %d was removed", task.id)
    return kept is not None


def _delete(door: LabelStudioDoor, path: str) -> None:
    try:
        door.connection.write("DELETE", path)
    except NotFoundError:
        logger.info("another push removed %s first", path)
