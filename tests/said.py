"""Readings for tests: what a reader was given and said of a case, in a line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sonoloop.platform.lexicon import BY_ORGAN, LesionBox, Organ, entities_json, fields
from sonoloop.platform.records import ReviewRecord, content_id
from sonoloop.platform.tasks import Purpose, TaskRecord, write_tasks
from sonoloop.platform.workspace import Store

START = datetime(2026, 1, 1, tzinfo=UTC)
LEFT_BOX = LesionBox(image_index=0, x=0.1, y=0.1, width=0.2, height=0.2)


def entities(organ: Organ = "liver", lesion: str = "absent", **choices: str | int | None) -> str:
    """Canonical JSON; what is not named was not assessed."""
    model = BY_ORGAN[organ]
    asked = [name for name in fields(organ) if lesion == "present" or name not in model.descriptors()]
    values = dict.fromkeys(asked, "not assessed") | {"organ": organ, "lesion": lesion} | choices
    return entities_json(model.model_validate(values))


def said(case_id: str, reader: str = "ann", hours: int = 0, **changes: object) -> ReviewRecord:
    """A review; each reader's annotation of a case has a number of its own."""
    number = int(content_id(case_id, reader, str(changes.get("project")), length=8), 16)
    at = START + timedelta(hours=hours)
    values: dict[str, object] = {
        "annotation_id": number,
        "task_id": number // 2,
        "case_id": case_id,
        "model_version": None,
        "reader": reader,
        "findings": "the liver is normal",
        "impression": "normal",
        "entities": entities(),
        "boxes": (),
        "origins": {},
        "lead_time_s": None,
        "created_at": START + timedelta(hours=hours),
        "updated_at": at,
        **changes,
    }
    marks = (values["annotation_id"], values["updated_at"], values.get("deleted"))
    return ReviewRecord.model_validate({"review_id": content_id(*map(str, marks)), **values})


def write_said(workspace: Store, *reviews: ReviewRecord) -> None:
    """Append them as a pull does."""
    name = content_id(*(review.review_id for review in reviews), length=16)
    workspace.write_table(ReviewRecord.table(list(reviews)), "reviews", f"{name}.parquet")


def give_tasks(workspace: Store, purpose: Purpose, *case_ids: str, at: datetime = START) -> None:
    """Tell the ledger of a task for each case, which went out without a draft."""
    rows = [
        TaskRecord(
            project="p",
            case_id=case_id,
            task_id=None,
            purpose=purpose,
            strategy="random",
            num_readers=1,
            model_version=None,
            state="sent",
            written_at=at,
        )
        for case_id in case_ids
    ]
    write_tasks(workspace, rows)
