"""A real project with tasks, and readers who answer them, skip them, take it back and delete it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from said import LEFT_BOX, entities

from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.predictions import prediction_of
from sonoloop.platform.labelstudio.regions import PageContent, Region, escape_region, regions_of
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.platform.lexicon import parse_entities
from sonoloop.platform.records import DraftRecord, Escape

IMAGES = ["s3://bucket/ws/images/ab/abcd.png"]


def draft(case_id: str) -> DraftRecord:
    """A draft of a liver with a lesion."""
    return DraftRecord(
        case_id=case_id,
        run_id="r",
        model_version="m/1",
        prompt_version="p1",
        config_hash="h",
        status="draft",
        findings="a lesion",
        impression="a lesion",
        entities=entities(lesion="present"),
        boxes=(LEFT_BOX,),
        confidence=0.5,
    )


def given_up(escape: Escape) -> list[Region]:
    """What a reader sends in who leaves the draft as it is and has no answer."""
    return [*prediction_of(draft("any"))["result"], escape_region(escape)]


def answer(**choices: str) -> list[Region]:
    """What a reader sends in, about a liver without a lesion."""
    return regions_of(PageContent("normal", "normal", parse_entities(entities(**choices))))


@dataclass(frozen=True)
class AtWork:
    """Readers on a project."""

    door: LabelStudioDoor
    title: str

    @property
    def project(self) -> int:
        """The project's id."""
        return self.door.ensure_project(self.title, build_page()).id

    def give(self, *case_ids: str) -> None:
        """Tasks with a draft each."""
        data: dict[str, Any] = {"images": IMAGES, "organ_hint": "liver", "scanner": "phantom"}
        cases = [CaseUpload({"case_id": name, **data}, prediction_of(draft(name))) for name in case_ids]
        upload(self.door, self.project, cases)

    def task(self, case_id: str) -> int:
        """The id of a case's task."""
        (task,) = self.door.tasks_of(self.project, [case_id])
        return task.id

    def reader(self) -> int:
        """A new person's id."""
        name = f"{secrets.token_hex(6)}@example.com"
        return int(self.door.connection.write("POST", "/api/users/", {"username": name, "email": name})["id"])

    def submit(
        self, case_id: str, result: list[Any] | None = None, *, by: int | None = None, skipped: bool = False
    ) -> int:
        """An annotation; returns its id."""
        body: dict[str, Any] = {"result": answer() if result is None else result, "was_cancelled": skipped}
        body |= {} if by is None else {"completed_by": by}
        path = f"/api/tasks/{self.task(case_id)}/annotations/"
        return int(self.door.connection.write("POST", path, body)["id"])

    def delete(self, annotation: int) -> None:
        """As the page's bin does."""
        self.door.connection.write("DELETE", f"/api/annotations/{annotation}/")

    def delete_task(self, case_id: str) -> None:
        """Also with everything on it."""
        self.door.connection.write("DELETE", f"/api/tasks/{self.task(case_id)}/")

    def action(self, name: str, *case_ids: str) -> None:
        """What the Data Manager's menu does with some tasks."""
        selected = {"all": False, "included": [self.task(case_id) for case_id in case_ids]}
        path = f"/api/dm/actions?id={name}&project={self.project}"
        self.door.connection.write("POST", path, {"selectedItems": selected})
