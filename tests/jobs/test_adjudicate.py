"""What readers disagree on is settled in a project of its own, and settled once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from readers_at_work import AtWork, answer
from said import START

from sonoloop.jobs.adjudicate import run_adjudicate
from sonoloop.jobs.config import Config
from sonoloop.jobs.freezing.config import SnapshotConfig
from sonoloop.jobs.pull import run_pull
from sonoloop.jobs.snapshot import freeze_snapshot
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.labelstudio.adjudication import adjudication_title
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.tables import current_reviews, disputed_cases, disputed_ids
from sonoloop.platform.tasks import project_key, read_tasks
from sonoloop.platform.workspace import S3Config

if TYPE_CHECKING:
    from conftest import LabelStudioStack, S3Stack

FEW = SnapshotConfig(min_train=1)


@pytest.fixture
def config(stack_s3: S3Stack, stack_labelstudio: LabelStudioStack, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Three cases on S3."""
    for name, value in stack_labelstudio.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef-of-the-tests")
    bucket = stack_s3.bucket()
    config = Config(
        workspace=f"s3://{bucket}/workspace",
        archive=f"s3://{bucket}/archive",
        s3=S3Config(endpoint_url=stack_s3.endpoint),
        labelstudio={"url": stack_labelstudio.url, "project": f"Readers {bucket}"},
    )
    workspace = config.open_workspace()
    workspace.write_bytes(b"a picture", "images", "ab", "c.png")  # Label Studio wants a prefix with something
    cases = [
        CaseRecord(
            case_id=name,
            patient_key="ffff0000",  # on the training side
            organ_hint="liver",
            scanner=None,
            images=(),
            indexed_at=START,
        )
        for name in "abc"
    ]
    workspace.write_table(CaseRecord.table(cases), "cases", "0.parquet")
    return config


@pytest.fixture
def readers(config: Config, stack_labelstudio: LabelStudioStack) -> Iterator[AtWork]:
    with LabelStudioDoor(config.labelstudio, SecretStr(stack_labelstudio.api_key)) as door:
        yield AtWork(door, config.labelstudio.project)


def test_every_project_has_a_court_of_its_own_whose_title_fits_label_studio() -> None:
    titles = ["Ultrasound review", *("x" * n for n in range(30, 50)), "x" * 49 + "y"]
    courts = [adjudication_title(title) for title in titles]
    assert courts[0] == "Ultrasound review – adjudication"
    assert len(set(courts)) == len(titles)
    assert all(len(court) <= 50 and court.endswith(" – adjudication") for court in courts)


@pytest.mark.labelstudio
def test_a_disputed_case_is_shown_with_what_each_reader_said_and_the_decision_comes_back(
    config: Config, readers: AtWork
) -> None:
    workspace, bob = config.open_workspace(), readers.reader()
    readers.give(*"abc")
    for name in "abc":
        readers.submit(name)
    for name in "ab":
        readers.submit(name, answer(parenchyma="coarse") if name == "a" else None, by=bob)
    pulled = run_pull(config)
    assert (pulled.new_reviews, pulled.reviewed_cases, pulled.disputed_cases) == (5, 3, 1)
    snapshot = freeze_snapshot(workspace, FEW, test_share=0.01)
    assert (snapshot.num_train, snapshot.left_out) == (2, {"disputed": 1})

    first, second = run_adjudicate(config), run_adjudicate(config)
    assert (first.disputed, first.new_tasks, first.new_answers) == (1, 1, 2)
    assert (second.disputed, second.new_tasks, second.new_answers) == (1, 0, 0)
    court = AtWork(readers.door, first.project)
    (task,) = readers.door.all_tasks(court.project)
    assert task.data.case_id == "a"
    said_by = {f"reader {row.reader}" for row in disputed_cases(workspace)["a"]}
    assert {p.model_version for p in task.predictions} == said_by
    assert len(said_by) == 2
    (noted,) = read_tasks(workspace, project_key(config.labelstudio.url, court.project)).values()
    assert (noted.case_id, noted.purpose, noted.task_id) == ("a", "adjudication", task.id)

    judged = court.submit("a", answer(parenchyma="normal"))
    assert run_pull(config).new_adjudications == 1
    assert disputed_ids(workspace) == []
    review = current_reviews(workspace)["a"]
    assert (review.annotation_id, review.adjudicates) == (judged, True)
    assert freeze_snapshot(workspace, FEW, test_share=0.01).num_train == 3
    with pytest.raises(NothingToDoError, match="no case is disputed"):
        run_adjudicate(config)
    court.delete(judged)
    assert run_pull(config).disputed_cases == 1
