"""``sonoloop pull``: new and changed annotations become review rows; nothing is ever overwritten."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import stage
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.labelstudio.annotations import reviews_of
from sonoloop.platform.records import ReviewRecord, content_id
from sonoloop.platform.tables import current_reviews, read_reviews
from sonoloop.platform.tasks import project_key
from sonoloop.platform.workspace import Store


class PullSummary(BaseModel):
    """What was new on the server."""

    project: str
    new_reviews: int
    known_reviews: int
    skipped_by_readers: int
    problems: dict[str, int]
    reviewed_cases: int


class _Mark(BaseModel):
    """``reviews/marks/<project>.json``: up to when the server was read."""

    read_until: datetime


def pull(config: ConfigOption = "sonoloop.toml", json: JsonOption = False) -> None:
    """Bring new and changed annotations back as reviews."""
    show(run_pull(load_config(config)), title="pull", as_json=json)


def run_pull(config: Config) -> PullSummary:
    """Read what changed since the last pull and append what is new.

    Raises:
        ConfigError: no API key or pseudonym key.
        ServiceError: Label Studio does not answer or refuses.
    """
    key = pseudonym_key()
    workspace = config.open_workspace()
    with open_project(config) as (door, project), stage("pull") as counts:
        mark_name = f"{project_key(config.labelstudio.url, project.id)}.json"
        changes = door.changes(project.id, _read_mark(workspace, mark_name))
        found = reviews_of(changes.tasks, key)
        known = {review.review_id for review in read_reviews(workspace)}
        fresh = [review for review in found.reviews if review.review_id not in known]
        if fresh:
            name = f"{content_id(*sorted(review.review_id for review in fresh), length=16)}.parquet"
            workspace.write_table(ReviewRecord.table(fresh), "reviews", name)
        # After the rows: a crash in between repeats rows that are known by id, and loses none.
        workspace.write_bytes(
            _Mark(read_until=changes.mark).model_dump_json().encode(), "reviews", "marks", mark_name
        )
        counts.update(new=len(fresh), known=len(found.reviews) - len(fresh))
    return PullSummary(
        project=project.title,
        new_reviews=len(fresh),
        known_reviews=len(found.reviews) - len(fresh),
        skipped_by_readers=found.num_cancelled,
        problems=dict(found.problems),
        reviewed_cases=len(current_reviews(workspace)),
    )


def _read_mark(workspace: Store, name: str) -> datetime | None:
    try:
        return _Mark.model_validate_json(workspace.read_bytes("reviews", "marks", name)).read_until
    except FileNotFoundError:
        return None
