"""The door to one Label Studio: project, image storage, tasks, predictions, annotations.

Label Studio has no idempotency keys: the same import twice makes two of everything. So every write here
first asks what is there, and a write whose fate is unknown is followed by asking again (`upload`).
"""

from __future__ import annotations

import json
import logging
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Self, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.answers import Project, SeenAnnotation, SeenTask, TaskCounts
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.http import Connection
from sonoloop.platform.labelstudio.page import CORE_CONTROLS, choice_controls, number_controls, page_hash
from sonoloop.platform.labelstudio.predictions import Prediction, TaskData
from sonoloop.platform.labelstudio.regions import Region
from sonoloop.platform.labelstudio.storage import STORAGE_TITLE, ImageStorage

logger = logging.getLogger(__name__)

A = TypeVar("A", bound=BaseModel)
T = TypeVar("T", SeenTask, TaskCounts)
_DESCRIPTION = "Drafts and reviews of sonoloop; page {}"
# The query travels in the URL, and web servers in front of Label Studio cut URLs at 8 KB.
_LOOKUP_IDS = 100
_COUNTS_PAGE = 1000


@dataclass(frozen=True)
class Changes:
    """Tasks changed since a mark, read page by page, and the mark for the next pull."""

    mark: datetime
    tasks: Iterator[SeenTask]


def _parse(model: type[A], value: Any, what: str) -> A:
    try:
        return model.model_validate(value)
    except ValidationError as err:
        places = sorted({".".join(map(str, item["loc"])) for item in err.errors()})
        raise ServiceError(
            f"Label Studio's answer for {what} cannot be read in: {', '.join(places)}"
        ) from err


def _same_page(one: str, other: str) -> bool:
    try:
        return ET.canonicalize(one, strip_text=True) == ET.canonicalize(other, strip_text=True)
    except ET.ParseError:
        return False


def _lost_controls(old: str, new: str) -> list[str]:
    """Our controls that one labeling configuration has and another lacks."""
    names = (*choice_controls(), *number_controls())
    return [name for name in names if f'name="{name}"' in old and f'name="{name}"' not in new]


def _filter(name: str, operator: str, value: Any, kind: str) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{name}", "operator": operator, "value": value, "type": kind}


_ANNOTATED = _filter("total_annotations", "greater", 0, "Number")


class LabelStudioDoor:
    """One Label Studio, logged in; use as a context manager or `close` it.

    Every method raises `ServiceError` where the server does not answer, refuses the key or refuses the call.
    """

    def __init__(self, config: LabelStudioConfig, key: SecretStr) -> None:
        self.config = config
        self.connection = Connection(
            config.url,
            key,
            timeout_s=config.timeout_s,
            patience_s=config.patience_s,
            ca_file=config.ca_file,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the sockets back."""
        self.connection.close()

    # --- project and storage ---

    def find_project(self, title: str) -> Project | None:
        """The project with exactly this title, the oldest where there are several."""
        include = ",".join(Project.model_fields)
        answer = self.connection.get("/api/projects/", title=title, page_size=1000, include=include)
        projects = [_parse(Project, item, "a project") for item in answer["results"]]
        same = [project for project in projects if project.title == title]
        return min(same, key=lambda project: project.id) if same else None

    def ensure_project(self, title: str, page: str) -> Project:
        """The project, created if absent; its page is renewed only when ours has changed.

        A page that somebody customised in Label Studio is left as it is until then.

        Raises:
            ServiceError: a project of this title is somebody else's, or has tasks on a page with more fields.
        """
        found = self.find_project(title)
        if found is None:
            return self._create_project(title, page)
        description = _DESCRIPTION.format(page_hash(page))
        if found.description == description or _same_page(found.label_config, page):
            return found
        is_ours = all(f'name="{name}"' in found.label_config for name in CORE_CONTROLS)
        if found.task_number and not is_ours:
            raise ServiceError(
                f"Label Studio's project {title!r} holds tasks on a page that is not ours; "
                "choose another title"
            )
        if found.task_number and (lost := _lost_controls(found.label_config, page)):
            raise ServiceError(
                f"Label Studio's project {title!r} holds tasks on a page with {len(lost)} fields that the "
                f"configured one lacks ({', '.join(lost[:3])}...); choose another title, or that page again"
            )
        body = {"label_config": page, "description": description}
        # Label Studio 1.23 itself would also take a page that lacks fields which annotations use.
        answer = self.connection.write("PATCH", f"/api/projects/{found.id}/", body)
        logger.info("the page of project %d was renewed", found.id)
        return _parse(Project, answer, "the project")

    def _create_project(self, title: str, page: str) -> Project:
        body = {
            "title": title,
            "label_config": page,
            "description": _DESCRIPTION.format(page_hash(page)),
            "show_collab_predictions": True,  # what Label Studio calls "use predictions to prelabel tasks"
            "maximum_annotations": 1,
        }
        created = _parse(Project, self.connection.write("POST", "/api/projects/", body), "the project")
        first = self.find_project(title)
        if first is None or first.id == created.id:
            return created
        # Another push made the same project in the same moment: the older one stays.
        self.connection.write("DELETE", f"/api/projects/{created.id}/")
        return first

    def use_version(self, project_id: int, version_name: str, *, least_sure_first: bool = False) -> None:
        """Prefill the labeling stream from this model version, and set the stream's order.

        Label Studio prefills from one version only: tasks without a prediction of it open empty there. Its
        "uncertainty sampling" takes the lowest score of that version first; otherwise tasks come as they came
        in.
        """
        sampling = "Uncertainty sampling" if least_sure_first else "Sequential sampling"
        body = {"model_version": version_name, "sampling": sampling}
        self.connection.write("PATCH", f"/api/projects/{project_id}/", body)

    def ensure_storage(self, project_id: int, storage: ImageStorage) -> int:
        """Attach the images, or bring the attached storage up to date; returns its id.

        Raises:
            ServiceError: Label Studio cannot reach the bucket, or finds nothing under the prefix.
        """
        known = self.connection.get("/api/storages/s3/", project=project_id)
        same = [item["id"] for item in known if item.get("title") == STORAGE_TITLE]
        body = {"project": project_id, **storage.body(self.config)}
        try:
            if same:
                self.connection.write("PATCH", f"/api/storages/s3/{same[0]}", body)
                return int(same[0])
            return int(self.connection.write("POST", "/api/storages/s3/", body)["id"])
        except ServiceError as err:
            raise ServiceError(
                f"Label Studio cannot use s3://{storage.bucket}/{storage.prefix} for images: check the "
                "bucket, the keys, that the prefix holds images, and that Label Studio reaches the S3 "
                f"endpoint (its own guard refuses loopback addresses unless told otherwise). {err}"
            ) from err

    # --- reading ---

    def _walk(
        self,
        model: type[T],
        project_id: int,
        *filters: dict[str, Any],
        page_size: int,
        task_ids: Sequence[int] | None = None,
        **options: str,
    ) -> Iterator[T]:
        """Tasks by ascending id, a page at a time.

        By id, not by page number: tasks that come or go meanwhile cannot shift others out of sight.
        """
        query: dict[str, Any] = {"ordering": ["tasks:id"]}
        if task_ids is not None:
            query["selectedItems"] = {"all": False, "included": list(task_ids)}
        last_id = 0
        while True:
            beyond = _filter("id", "greater", last_id, "Number")
            query["filters"] = {"conjunction": "and", "items": [beyond, *filters]}
            how: dict[str, str | int] = {"project": project_id, "page_size": page_size, **options}
            answer = self.connection.get("/api/tasks/", query=json.dumps(query), **how)
            tasks = [_parse(model, task, "a task") for task in answer["tasks"]]
            yield from tasks
            # A server may give fewer tasks to a page than it is asked for; it still says how many there are.
            if not tasks or len(tasks) >= answer["total"]:
                return
            last_id = tasks[-1].id

    def _tasks(
        self, project_id: int, *filters: dict[str, Any], task_ids: Sequence[int] | None = None
    ) -> Iterator[SeenTask]:
        size, whole = self.config.page_size, {"fields": "all", "resolve_uri": "false"}
        return self._walk(SeenTask, project_id, *filters, page_size=size, task_ids=task_ids, **whole)

    def all_tasks(self, project_id: int) -> Iterator[SeenTask]:
        """Every task with its predictions and annotations, by ascending id."""
        return self._tasks(project_id)

    def tasks_of(self, project_id: int, case_ids: Sequence[str]) -> list[SeenTask]:
        """The tasks of some cases, with everything on them; absent cases are simply not there."""
        found: list[SeenTask] = []
        for start in range(0, len(case_ids), _LOOKUP_IDS):
            ids = list(case_ids[start : start + _LOOKUP_IDS])
            found += self._tasks(project_id, _filter("data.case_id", "in_list", ids, "List"))
        return found

    def changes(self, project_id: int, since: datetime | None) -> Changes:
        """Tasks that have annotations and on which anything happened since a mark, an edit included.

        The look back by ``overlap_s`` repeats some annotations; rows named by annotation id and
        ``updated_at`` take care of that.

        Args:
            project_id: The project.
            since: The mark of the pull before; ``None`` for everything.
        """
        mark = self.connection.server_time()
        recent = []
        if since is not None:
            begin = since.astimezone(UTC) - timedelta(seconds=self.config.overlap_s)
            text = begin.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            recent.append(_filter("updated_at", "greater", text, "Datetime"))
        # Two walks: no column counts all annotations, and `completed_at` leaves out skipped ones.
        only_skipped = (
            _filter("total_annotations", "equal", 0, "Number"),
            _filter("cancelled_annotations", "greater", 0, "Number"),
        )
        walks = (self._tasks(project_id, *recent, *kind) for kind in ((_ANNOTATED,), only_skipped))
        return Changes(mark, chain.from_iterable(walks))

    def tasks_by_id(self, project_id: int, task_ids: Sequence[int]) -> Iterator[SeenTask]:
        """Tasks with everything on them; those that are gone are simply not there."""
        size = 4 * _LOOKUP_IDS  # ids of tasks are shorter than those of cases
        for start in range(0, len(task_ids), size):
            yield from self._tasks(project_id, task_ids=task_ids[start : start + size])

    def num_annotations(self, project_id: int) -> int:
        """How many annotations the project holds, skipped ones left out."""
        answer = self.connection.get("/api/tasks/", project=project_id, page_size=1)
        return int(answer["total_annotations"])

    def annotation_counts(self, project_id: int) -> Iterator[TaskCounts]:
        """Every task that holds annotations other than skipped ones, by ascending id, without reading them.

        Nothing on the server tells that a task was deleted; only that it is missing here.
        """
        return self._walk(TaskCounts, project_id, _ANNOTATED, page_size=_COUNTS_PAGE)

    # --- writing ---

    def update_data(self, task_id: int, data: TaskData) -> None:
        """Replace what a task shows beside the form."""
        self.connection.write("PATCH", f"/api/tasks/{task_id}/", {"data": data})

    def set_readers(self, task_id: int, num_readers: int) -> None:
        """How many different people are given the task before it counts as done.

        Label Studio's own setting is the project's; of a task it is the field ``overlap``, which its next
        task and its "done" go by.
        """
        self.connection.write("PATCH", f"/api/tasks/{task_id}/", {"overlap": num_readers})

    def update_score(self, prediction_id: int, score: float | None) -> None:
        """Replace how sure a prediction is."""
        self.connection.write("PATCH", f"/api/predictions/{prediction_id}/", {"score": score})

    def update_prediction(self, task_id: int, prediction_id: int, prediction: Prediction) -> None:
        """Replace what a prediction of a task says and how sure it is."""
        body = {"task": task_id, **prediction}  # a server that checks predictions asks for the task
        self.connection.write("PATCH", f"/api/predictions/{prediction_id}/", body)

    def create_annotation(
        self,
        task_id: int,
        result: Sequence[Region],
        *,
        parent_prediction: int | None,
        lead_time_s: float | None = None,
    ) -> int:
        """Submit an annotation as the key's owner, as a reader that is a program does; returns its id."""
        body = {
            "result": list(result),
            "parent_prediction": parent_prediction,
            "lead_time": lead_time_s,
        }
        answer = self.connection.write("POST", f"/api/tasks/{task_id}/annotations/", body)
        return _parse(SeenAnnotation, answer, "the annotation").id

    def update_annotation(self, annotation_id: int, result: Sequence[Region]) -> None:
        """Replace what an annotation says."""
        self.connection.write("PATCH", f"/api/annotations/{annotation_id}/", {"result": list(result)})
