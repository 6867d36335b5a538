"""``sonoloop pull``: new and changed annotations become review rows; nothing is ever overwritten."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import BaseModel, Field

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.pulling.oddities import page_oddities
from sonoloop.jobs.pulling.project import ProjectPull, PullCounts
from sonoloop.jobs.runs import stage
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.labelstudio.adjudication import adjudication_title
from sonoloop.platform.labelstudio.config import configured_page
from sonoloop.platform.tables import count_reviewed, disputed_ids


class PullSummary(BaseModel):
    """What was new on the server."""

    project: str
    new_reviews: int
    new_adjudications: int = 0
    known_reviews: int
    deleted: int = Field(default=0, description="annotations that are gone from Label Studio")
    skipped_by_readers: int
    escapes: dict[str, int] = Field(default={}, description="new ones, by why the reader had no answer")
    withdrawn_cases: int = Field(default=0, description="cases whose images are shown no more")
    problems: dict[str, int]
    reviewed_cases: int
    disputed_cases: int = 0


def pull(
    config: ConfigOption = "sonoloop.toml",
    full: Annotated[
        bool, typer.Option("--full", help="Read every task, and believe any number of deletions.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring new and changed annotations back as reviews."""
    show(run_pull(load_config(config), full=full), title="pull", as_json=json)


def run_pull(config: Config, *, full: bool = False) -> PullSummary:
    """Read what changed since the last pull and append what is new, adjudications included.

    Args:
        config: The configuration.
        full: Read every task instead of what changed, and believe any number of deletions.

    Raises:
        ConfigError: no API key or pseudonym key.
        ServiceError: Label Studio does not answer or refuses, or suddenly lacks most annotations.
        StorageError: the workspace cannot be read or written.
    """
    key = pseudonym_key()
    workspace = config.open_workspace()
    settled = PullCounts()
    with open_project(config) as (door, project), stage("pull") as counts:
        read = ProjectPull(workspace, door, project, key, adjudicates=False).run(full=full)
        court = door.find_project(adjudication_title(project.title))
        if court is not None:
            settled = ProjectPull(workspace, door, court, key, adjudicates=True).run(full=full)
        lacking = page_oddities(project.label_config, configured_page(config.labelstudio))
        counts.update(new=read.new + settled.new, known=read.known + settled.known)
    return PullSummary(
        project=project.title,
        new_reviews=read.new,
        new_adjudications=settled.new,
        known_reviews=read.known + settled.known,
        deleted=read.deleted + settled.deleted,
        skipped_by_readers=read.skipped + settled.skipped,
        escapes=dict(read.escapes + settled.escapes),
        withdrawn_cases=read.withdrawn + settled.withdrawn,
        problems=dict(lacking + read.problems + settled.problems),
        reviewed_cases=count_reviewed(workspace),
        disputed_cases=len(disputed_ids(workspace)),
    )
