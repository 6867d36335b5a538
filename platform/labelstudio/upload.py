"""Bringing cases into a project: one task per case, one prediction per (task, model version), however often.

`TaskWriter` makes new tasks and brings those that are there up to date; `upload` does either, as the server's
own state asks for it. A write whose fate is unknown is followed by a look at what got in, and only what is
missing is sent again. Such a write may still land while we look, so the look after the next one also removes
doubles; it never removes what a person has worked on, and nothing that a person works on changes under them.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.answers import SeenPrediction, SeenTask
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.http import NotFoundError, TooLargeError, UncertainError
from sonoloop.platform.labelstudio.predictions import Prediction, TaskData

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE_S = 2.0

AT_ONCE = 4
"""Changes of single tasks under way at a time, where Label Studio has no call of many: on 2 cores 28 scores a
second changed instead of 13."""

Outcome = Literal["predicted", "updated", "unchanged", "kept", "gone"]
"""Of a task that was there: it got a prediction; its prediction or data changed; nothing did; somebody has
worked on it, so nothing may; it is not there, or is another case's by now."""


@dataclass(frozen=True)
class CaseUpload:
    """One case to show: its task, where there is a draft its prediction, and how many people read it."""

    data: TaskData
    prediction: Prediction | None = None
    num_readers: int = 1

    @property
    def case_id(self) -> str:
        """The key of the task."""
        return self.data["case_id"]


@dataclass(frozen=True)
class UploadCounts:
    """What became of the cases: each is new, or had a task with one of the outcomes."""

    num_new_tasks: int = 0
    num_new_predictions: int = 0
    num_updated: int = 0
    num_unchanged: int = 0


@dataclass
class _Work:
    """What some tasks lack, by the ids of tasks and of predictions."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    data: list[tuple[int, TaskData]] = field(default_factory=list)
    changed: list[tuple[int, int, Prediction]] = field(default_factory=list)
    scores: list[tuple[int, float | None]] = field(default_factory=list)
    missing: list[tuple[int, Prediction]] = field(default_factory=list)


class TaskWriter:
    """Writes tasks of one project.

    Every method raises `ServiceError` where the server refuses, or fails `max_attempts` times at one batch.

    Args:
        door: The Label Studio.
        project_id: A project with our page.
    """

    def __init__(self, door: LabelStudioDoor, project_id: int) -> None:
        self._door = door
        self._path = f"/api/projects/{project_id}/import"
        self._project_id = project_id
        self._limit = door.config.import_batch  # halved for good where the server finds a body too large

    # --- new tasks ---

    def make(self, cases: Sequence[CaseUpload]) -> dict[str, int]:
        """Make a task for each of these cases, which have none; returns their ids by case."""
        placed = self._make_tasks(cases)
        _at_once(
            lambda case: self.set_readers(placed[case.case_id], case.num_readers),
            [case for case in cases if case.num_readers > 1],
        )
        return placed

    def _make_tasks(self, cases: Sequence[CaseUpload]) -> dict[str, int]:
        placed: dict[str, int] = {}
        num_failures = 0
        while missing := [case for case in cases if case.case_id not in placed]:
            try:
                placed |= self._import_tasks(missing[: self._limit])
            except TooLargeError:
                self._halve(f"case {missing[0].case_id}")
            except UncertainError as err:
                num_failures += 1
                self._doubt(err, num_failures, len(cases))
                placed = {case_id: task.id for case_id, task in self.found(cases).items()}
        if num_failures:  # what was sent first may have landed after the look
            placed = {case_id: task.id for case_id, task in self.found(cases).items()}
        return placed

    def _import_tasks(self, cases: Sequence[CaseUpload]) -> dict[str, int]:
        tasks = [{"data": c.data, "predictions": [c.prediction] if c.prediction else []} for c in cases]
        answer = self._post(self._path, tasks, return_task_ids="true")
        ids = answer.get("task_ids") or ()
        if len(ids) != len(cases):
            raise UncertainError("Label Studio does not tell the ids of the tasks it took")
        return {case.case_id: int(task_id) for case, task_id in zip(cases, ids, strict=True)}

    def found(self, cases: Sequence[CaseUpload]) -> dict[str, SeenTask]:
        """The one task of each case that has any; further ones are removed."""
        by_case: dict[str, list[SeenTask]] = {}
        for task in self._door.tasks_of(self._project_id, [case.case_id for case in cases]):
            by_case.setdefault(str(task.data.case_id), []).append(task)
        return {case_id: keep_one(self._door, tasks)[0] for case_id, tasks in by_case.items()}

    def set_readers(self, task_id: int, num_readers: int) -> None:
        """As `LabelStudioDoor.set_readers`, however often it takes: it may be said twice."""
        for failures in range(1, self._door.config.max_attempts + 1):
            try:
                return self._door.set_readers(task_id, num_readers)
            except UncertainError as err:
                self._doubt(err, failures, 1)
        raise AssertionError("unreachable")

    # --- tasks that are there ---

    def refresh(self, cases: Mapping[int, CaseUpload]) -> dict[int, Outcome]:
        """Give tasks the data and prediction that they should have, unless somebody has worked on them.

        Args:
            cases: By the id of their task.
        """
        first: dict[int, Outcome] = {}
        failures = 0
        while True:
            seen = list(self._door.tasks_by_id(self._project_id, sorted(cases)))
            work = self._work(seen, cases)
            first = first or work.outcomes
            try:
                self._do(work)
            except UncertainError as err:
                failures += 1
                self._doubt(err, failures, len(cases))
            else:
                return {task_id: first.get(task_id, "gone") for task_id in cases}

    def _work(self, seen: Sequence[SeenTask], cases: Mapping[int, CaseUpload]) -> _Work:
        work = _Work()
        for task in seen:
            case = cases[task.id]
            if task.data.case_id == case.case_id:
                work.outcomes[task.id] = self._compare(task, case, work)
        return work

    def _compare(self, task: SeenTask, case: CaseUpload, work: _Work) -> Outcome:
        """Put down what a task lacks."""
        if is_worked_on(task):
            return "kept"
        outcome: Outcome = "unchanged"
        if task.data.shown() != case.data:
            work.data.append((task.id, case.data))
            outcome = "updated"
        wanted = case.prediction
        if wanted is None:
            return outcome
        kept = _keep_one_prediction(self._door, task, wanted["model_version"])
        if kept is None:
            work.missing.append((task.id, wanted))
            return "predicted"
        if list(kept.result) != wanted["result"]:
            work.changed.append((task.id, kept.id, wanted))
            return "updated"
        if not _same_score(kept.score, wanted["score"]):
            work.scores.append((kept.id, wanted["score"]))
            return "updated"
        return outcome

    def _do(self, work: _Work) -> None:
        _at_once(lambda change: self._door.update_data(*change), work.data)
        _at_once(lambda change: self._door.update_prediction(*change), work.changed)
        _at_once(lambda change: self._door.update_score(*change), work.scores)
        self._import_predictions(work.missing)

    def _import_predictions(self, predictions: Sequence[tuple[int, Prediction]]) -> None:
        todo = predictions
        while todo:
            batch = [{"task": task_id, **prediction} for task_id, prediction in todo[: self._limit]]
            try:
                answer = self._post(f"{self._path}/predictions", batch)
            except TooLargeError:
                self._halve(f"task {todo[0][0]}")
                continue
            if answer.get("created") != len(batch):
                raise UncertainError("Label Studio took only some predictions of a batch")
            todo = todo[len(batch) :]

    # --- both ---

    def _post(self, path: str, body: Any, **params: str) -> Any:
        timeout_s = self._door.config.import_timeout_s
        return self._door.connection.write("POST", path, body, timeout_s=timeout_s, **params)

    def _halve(self, what: str) -> None:
        if self._limit == 1:
            raise ServiceError(
                f"Label Studio at {self._door.config.url}, or what stands before it, finds {what} alone too "
                "large (413); raise its limit for the size of a body"
            )
        self._limit = max(1, self._limit // 2)
        logger.warning("a body was too large; %d at once from here on", self._limit)

    def _doubt(self, err: UncertainError, num_failures: int, size: int) -> None:
        if num_failures >= self._door.config.max_attempts:
            raise ServiceError(
                f"Label Studio at {self._door.config.url} did not take a batch of {size} cases in "
                f"{num_failures} sends; see its log, then run the same command again. Last: {err}"
            ) from err
        logger.warning("%s; asking what got in before sending again", err)
        time.sleep(_PAUSE_S * 2 ** (num_failures - 1))


def upload(
    door: LabelStudioDoor,
    project_id: int,
    cases: Sequence[CaseUpload],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> UploadCounts:
    """Make sure that every case has its task and prediction; the server is asked about every case first.

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
    writer, num_new = TaskWriter(door, project_id), 0
    outcomes: Counter[Outcome] = Counter()
    for start in range(0, len(cases), door.config.import_batch):
        batch = cases[start : start + door.config.import_batch]
        there = writer.found(batch)
        outcomes.update(
            writer.refresh({there[c.case_id].id: c for c in batch if c.case_id in there}).values()
        )
        num_new += len(writer.make([case for case in batch if case.case_id not in there]))
        on_progress(len(batch))
    num_unchanged = len(cases) - num_new - outcomes["predicted"] - outcomes["updated"]
    return UploadCounts(num_new, outcomes["predicted"], outcomes["updated"], num_unchanged)


def is_worked_on(task: SeenTask) -> bool:
    """Whether a person has answered the task, skipped it, or begun to."""
    return bool(task.annotations) or task.draft_exists


def keep_one(door: LabelStudioDoor, tasks: Sequence[SeenTask]) -> tuple[SeenTask, int]:
    """Of tasks of one case, remove all but one; never one that was worked on.

    Returns:
        The one that stays, and how many were removed.
    """
    kept = min(tasks, key=lambda task: (not task.annotations, not task.draft_exists, task.id))
    num_removed = 0
    for task in tasks:
        if task is kept:
            continue
        if is_worked_on(task):
            logger.warning("tasks %d and %d show the same case and both were worked on", kept.id, task.id)
            continue
        _delete(door, f"/api/tasks/{task.id}/")
        num_removed += 1
        logger.warning("task %d showed the same case as task %d and was removed", task.id, kept.id)
    return kept, num_removed


def _keep_one_prediction(door: LabelStudioDoor, task: SeenTask, version_name: str) -> SeenPrediction | None:
    """The oldest prediction of a version; nobody has used the others, which are removed."""
    same = sorted((p for p in task.predictions if p.model_version == version_name), key=lambda p: p.id)
    for prediction in same[1:]:
        _delete(door, f"/api/predictions/{prediction.id}/")
        logger.warning("a second prediction of one model version on task %d was removed", task.id)
    return same[0] if same else None


def _at_once(change: Callable[[T], None], items: Sequence[T]) -> None:
    """Make a change for each item; where some fail, the others are made and one error is raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        changes = [pool.submit(change, item) for item in items]
    for done in changes:
        done.result()


def _same_score(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else math.isclose(one, other, abs_tol=1e-6)


def _delete(door: LabelStudioDoor, path: str) -> None:
    try:
        door.connection.write("DELETE", path)
    except NotFoundError:
        logger.info("another push removed %s first", path)
