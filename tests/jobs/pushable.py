"""A workspace on S3 with drafted cases, and what a Label Studio shows of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sonoloop.jobs.config import Config
from sonoloop.jobs.labelstudio import open_project
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform import registry
from sonoloop.platform.records import CaseRecord, DraftRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, write_sorted
from sonoloop.platform.tasks import TaskRecord, project_key, read_tasks
from sonoloop.platform.workspace import S3Config, Store

NAME = "echovlm-nano"
MODEL = f"{NAME}/1"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYTHING_DRAFTED = {"control_share": 0, "agreement_share": 0}


def pushable(
    bucket: str,
    endpoint: str,
    url: str,
    sure: dict[str, float],
    *,
    push: dict[str, Any] | None = None,
    **labelstudio: Any,
) -> Config:
    """A configuration whose workspace holds a drafted case per name, as sure as told.

    Args:
        bucket: An empty one.
        endpoint: Of the S3.
        url: Of the Label Studio.
        sure: Confidence by case id.
        push: The section; without controls and second readers where absent.
        labelstudio: Of its section.
    """
    config = Config(
        workspace=f"s3://{bucket}/workspace",
        archive=f"s3://{bucket}/archive",
        s3=S3Config(endpoint_url=endpoint),
        labelstudio={"url": url, "project": f"Push {bucket}", **labelstudio},
        push=EVERYTHING_DRAFTED if push is None else push,
    )
    workspace = Store(config.workspace, config.s3)
    workspace.write_bytes(b"a picture", "images", "ab", "c.png")  # Label Studio wants a prefix with something
    write_sorted(workspace, CASES, [case(name) for name in sure], "0.parquet")
    add_drafts(config, sure, MODEL)
    registry.set_aliases(workspace, NAME, {"champion": MODEL}, expected=Aliases())
    return config


def case(case_id: str, *, withdrawn: bool = False, at: datetime = NOW) -> CaseRecord:
    """A case without pictures."""
    return CaseRecord(
        case_id=case_id,
        patient_key="p",
        organ_hint="liver",
        scanner=None,
        images=(),
        withdrawn=withdrawn,
        indexed_at=at,
    )


def add_drafts(config: Config, sure: dict[str, float], model: str) -> None:
    """Let a model draft cases."""
    drafts = [
        DraftRecord(
            case_id=case_id,
            run_id="r",
            model_version=model,
            prompt_version=PROMPT_VERSION,
            config_hash="h",
            status="draft",
            findings="f",
            impression="i",
            entities='{"organ":"liver","parenchyma":"normal","lesion":"absent"}',
            confidence=0.1,
            value_probabilities={"parenchyma": value, "lesion": value},
        )
        for case_id, value in sure.items()
    ]
    write_sorted(Store(config.workspace, config.s3), DRAFTS, drafts, model.replace("/", "-"), "0.parquet")


def raw_tasks(config: Config) -> list[dict[str, Any]]:
    """Label Studio's tasks with everything on them, by id."""
    with open_project(config) as (door, project):
        found = door.connection.get("/api/tasks/", project=project.id, fields="all", page_size=500)
    return sorted(found["tasks"], key=lambda task: task["id"])


def shown(config: Config) -> dict[str, list[str]]:
    """Model versions of each case's predictions; fails on a second task of a case."""
    tasks = raw_tasks(config)
    cases = [task["data"]["case_id"] for task in tasks]
    assert len(set(cases)) == len(cases)
    versions = [[p["model_version"].partition("@")[0] for p in task["predictions"]] for task in tasks]
    return dict(zip(cases, map(sorted, versions), strict=True))


def ledger(config: Config) -> dict[str, TaskRecord]:
    """The ledger by case id."""
    return read_tasks(config.open_workspace(), key(config))


def key(config: Config) -> str:
    """Of the project in the ledger."""
    with open_project(config) as (_, project):
        return project_key(config.labelstudio.url, project.id)


def delete_tasks(config: Config, case_ids: Iterable[str]) -> None:
    """What a person does in the data manager."""
    wanted = set(case_ids)
    with open_project(config) as (door, _):
        for task in raw_tasks(config):
            if task["data"]["case_id"] in wanted:
                door.connection.write("DELETE", f"/api/tasks/{task['id']}/")


def answer(config: Config, case_id: str) -> None:
    """Submit an annotation of a case's task."""
    (task,) = (task for task in raw_tasks(config) if task["data"]["case_id"] == case_id)
    with open_project(config) as (door, _):
        door.create_annotation(task["id"], [], parent_prediction=None)
