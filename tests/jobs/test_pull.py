"""Nothing that people do in Label Studio is missed, repeated or believed too easily."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fault_proxy import Fault, proxy_before
from pydantic import SecretStr
from readers_at_work import AtWork, answer, given_up
from said import START, write_said

from sonoloop.jobs.config import Config
from sonoloop.jobs.pull import PullSummary, run_pull
from sonoloop.jobs.pulling import project as pulling
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.records import CaseImage, CaseRecord
from sonoloop.platform.sorted_rooms import CASES, write_sorted
from sonoloop.platform.tables import current_reviews, done_cases, read_cases, read_frames, read_reviews

if TYPE_CHECKING:
    from conftest import LabelStudioStack

pytestmark = pytest.mark.labelstudio


@pytest.fixture
def config(stack_labelstudio: LabelStudioStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    for name, value in stack_labelstudio.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef-of-the-tests")
    for room in ("archive", "workspace"):
        (tmp_path / room).mkdir()
    title = f"Pull {secrets.token_hex(6)}"
    return Config(
        workspace=str(tmp_path / "workspace"),
        archive=str(tmp_path / "archive"),
        labelstudio={"url": stack_labelstudio.url, "project": title, "page_size": 3, "overlap_s": 1},
    )


@pytest.fixture
def readers(config: Config, stack_labelstudio: LabelStudioStack) -> Iterator[AtWork]:
    with LabelStudioDoor(config.labelstudio, SecretStr(stack_labelstudio.api_key)) as door:
        yield AtWork(door, config.labelstudio.project)


def brought(summary: PullSummary) -> tuple[int, int, int]:
    return summary.new_reviews, summary.deleted, summary.reviewed_cases


def test_a_pull_brings_what_is_new_and_a_second_one_nothing(config: Config, readers: AtWork) -> None:
    readers.give(*"abcdefgh")
    for name in "abcde":
        readers.submit(name)
    assert brought(run_pull(config)) == (5, 0, 5)
    assert brought(run_pull(config)) == (0, 0, 5)
    readers.submit("f")
    assert brought(run_pull(config)) == (1, 0, 6)
    assert brought(run_pull(config, full=True)) == (0, 0, 6)
    assert len(read_reviews(config.open_workspace())) == 6


def test_deletions_are_noticed_however_they_were_made(config: Config, readers: AtWork) -> None:
    readers.give(*"abcdefg")
    bob = readers.reader()
    own = {name: readers.submit(name) for name in "abcdefg"}
    readers.submit("a", by=bob)
    assert brought(run_pull(config)) == (8, 0, 7)

    readers.delete(own["a"])  # the other reader's stays
    assert brought(run_pull(config)) == (0, 1, 7)
    readers.delete(own["b"])  # the task's last
    assert brought(run_pull(config)) == (0, 1, 6)
    readers.delete_task("c")
    assert brought(run_pull(config)) == (0, 1, 5)
    readers.action("delete_tasks", "d")
    readers.action("delete_tasks_annotations", "e")
    assert brought(run_pull(config)) == (0, 2, 3)
    readers.submit("f", by=bob)  # as many as before
    readers.delete(own["f"])
    assert brought(run_pull(config)) == (1, 1, 3)
    assert brought(run_pull(config)) == (0, 0, 3)
    assert sorted(current_reviews(config.open_workspace())) == ["a", "f", "g"]


def test_a_deleted_row_says_nothing_of_what_was_said(config: Config, readers: AtWork) -> None:
    readers.give("a")
    readers.delete(_pulled(config, readers, "a"))
    run_pull(config)
    first, gone = read_reviews(config.open_workspace())
    assert gone.deleted
    assert gone.updated_at > first.updated_at
    assert (gone.findings, gone.entities, gone.origins) == ("", None, {})
    assert (gone.case_id, gone.annotation_id, gone.reader) == ("a", first.annotation_id, first.reader)


def test_an_answer_that_its_reader_skips_afterwards_is_out_until_it_is_given_again(
    config: Config, readers: AtWork
) -> None:
    readers.give("a")
    path = f"/api/annotations/{_pulled(config, readers, 'a')}/"
    readers.door.connection.write("PATCH", path, {"was_cancelled": True})
    skipped = run_pull(config)
    assert (brought(skipped), skipped.skipped_by_readers) == ((0, 1, 0), 1)
    readers.door.connection.write("PATCH", path, {"was_cancelled": False})
    assert brought(run_pull(config)) == (1, 0, 1)


def test_a_task_of_somebody_else_is_counted_and_does_not_make_every_pull_walk_all(
    config: Config, readers: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers.give("a")
    path = f"/api/projects/{readers.project}/import?return_task_ids=true"
    foreign = readers.door.connection.write("POST", path, [{"data": {"images": [], "case": "x"}}])
    task = foreign["task_ids"][0]
    readers.door.connection.write("POST", f"/api/tasks/{task}/annotations/", {"result": []})
    readers.submit("a")
    first = run_pull(config)
    assert (first.new_reviews, first.problems["foreign-task"]) == (1, 2)  # read once more by the count
    walks: list[int] = []
    walk = LabelStudioDoor.annotation_counts
    monkeypatch.setattr(
        LabelStudioDoor, "annotation_counts", lambda *given: (walks.append(1), walk(*given))[1]
    )
    run_pull(config)
    assert walks == []
    readers.delete_task("a")
    assert brought(run_pull(config)) == (0, 1, 0)
    assert walks == [1]


def test_an_escape_is_counted_by_kind_and_gives_the_case_no_answer(config: Config, readers: AtWork) -> None:
    readers.give(*"abc")
    readers.submit("a")
    readers.submit("b", given_up("cannot-judge"))
    own = readers.submit("c", given_up("bad-image"))
    found = run_pull(config)
    assert (brought(found), found.withdrawn_cases) == ((1, 0, 1), 0)
    assert found.escapes == {"cannot-judge": 1, "bad-image": 1}
    assert found.problems == {}
    assert done_cases(config.open_workspace()) == {"a", "b", "c"}
    assert run_pull(config).escapes == {}
    readers.door.update_annotation(own, answer())
    assert brought(run_pull(config)) == (1, 0, 2)


def test_a_case_on_which_patient_data_is_seen_is_withdrawn_before_its_row_is_written(
    config: Config, readers: AtWork
) -> None:
    workspace = config.open_workspace()
    image = CaseImage(image_key="images/ab/a.png", instance_id="i", frame_index=0, width=9, height=9)
    about: dict[str, Any] = {"patient_key": "p", "organ_hint": None, "scanner": None, "indexed_at": START}
    cases = [CaseRecord(case_id="a", images=(image,), **about), CaseRecord(case_id="b", images=(), **about)]
    write_sorted(workspace, CASES, cases, "0.parquet")
    workspace.write_bytes(b"a picture", image.image_key)
    readers.give("a", "b")
    readers.submit("a", given_up("patient-data-visible"))
    readers.submit("b")
    found = run_pull(config)
    assert (found.escapes, found.withdrawn_cases) == ({"patient-data-visible": 1}, 1)
    assert [case.case_id for case in read_cases(workspace)] == ["b"]
    assert not workspace.exists(image.image_key)
    assert [row.reason for row in read_frames(workspace)] == ["phi-suspected"]
    assert run_pull(config, full=True).withdrawn_cases == 0


def test_most_annotations_gone_at_once_is_believed_only_when_told_so(
    config: Config, readers: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "FEW", 1)
    readers.give(*"abc")
    own = [readers.submit(name) for name in "abc"]
    run_pull(config)
    for annotation in own[:2]:
        readers.delete(annotation)
    with pytest.raises(ServiceError, match=r"2 of the 3 annotations .* pull --full"):
        run_pull(config)
    assert len(current_reviews(config.open_workspace())) == 3
    assert brought(run_pull(config, full=True)) == (0, 2, 1)


def test_rows_are_written_in_parts_that_are_bounded(
    config: Config, readers: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "ROWS_PER_PART", 2)
    readers.give(*"abcde")
    for name in "abcde":
        readers.submit(name)
    assert run_pull(config).new_reviews == 5
    assert len(config.open_workspace().table_paths("reviews")) == 3


def test_a_server_that_fails_halfway_loses_nothing_and_doubles_nothing(
    config: Config, readers: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "ROWS_PER_PART", 2)
    readers.give(*"abcdefgh")
    for name in "abcdefgh":
        readers.submit(name)
    with proxy_before(config.labelstudio.url) as proxy:
        address = config.labelstudio.model_copy(update={"url": proxy.endpoint, "patience_s": 1})
        through = config.model_copy(update={"labelstudio": address})
        proxy.fails = lambda key, times: Fault(status=503) if key == "tasks/" and times > 1 else None
        with pytest.raises(ServiceError, match="503"):
            run_pull(through)
        proxy.fails = lambda *_: None
        assert 0 < len(read_reviews(config.open_workspace())) < 8
        assert run_pull(through).reviewed_cases == 8
    assert len(read_reviews(config.open_workspace())) == 8


def test_reviews_from_before_there_were_projects_are_read_again_and_count_once(
    config: Config, readers: AtWork
) -> None:
    readers.give("a")
    own = readers.submit("a")
    workspace = config.open_workspace()
    run_pull(config)
    (review,) = read_reviews(workspace)
    (path,) = workspace.table_paths("reviews")
    workspace.remove_paths([path])
    write_said(workspace, review.model_copy(update={"project": None}))
    assert brought(run_pull(config)) == (1, 0, 1)
    readers.delete(own)
    assert brought(run_pull(config)) == (0, 1, 0)


def test_what_the_page_or_an_annotation_has_that_ours_never_had_is_counted(
    config: Config, readers: AtWork
) -> None:
    readers.give("a")
    page = build_page().replace('name="impression"', 'name="conclusion"')
    readers.door.connection.write("PATCH", f"/api/projects/{readers.project}/", {"label_config": page})
    regions: list[Any] = [region for region in answer() if region["from_name"] != "impression"]
    outside = {"x": 150, "y": 10, "width": 5, "height": 5, "rotation": 0, "rectanglelabels": ["lesion"]}
    regions += [
        {
            "id": "1",
            "from_name": "conclusion",
            "to_name": "image",
            "type": "textarea",
            "value": {"text": ["x"]},
        },
        {"id": "2", "from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": outside},
    ]
    readers.submit("a", regions)
    found = run_pull(config)
    assert found.new_reviews == 1
    assert found.problems == {
        "page-lacks impression": 1,
        "unknown-control conclusion": 1,
        "empty-text impression": 1,
        "box-outside": 1,
    }


def _pulled(config: Config, readers: AtWork, case_id: str) -> int:
    """An annotation that the workspace has."""
    number = readers.submit(case_id)
    assert brought(run_pull(config)) == (1, 0, 1)
    return number
