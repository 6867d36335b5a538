"""Which row of an append-only room counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from said import entities, said, write_said

from sonoloop.platform import tables
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.lexicon import parse_entities
from sonoloop.platform.records import CaseRecord, DraftRecord, Record, ReviewRecord
from sonoloop.platform.workspace import Store

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def write(workspace: Store, room: str, file: str, *records: Record) -> None:
    workspace.write_table(type(records[0]).table(list(records)), room, f"{file}.parquet")


def instance(uri: str, hours: int, etag: str = "e") -> InstanceRecord:
    return InstanceRecord(
        instance_id=uri,
        uri=uri,
        etag=etag,
        size_bytes=1,
        status="rejected",
        indexed_at=START + timedelta(hours=hours),
    )


def case(case_id: str, hours: int, scanner: str) -> CaseRecord:
    return CaseRecord(
        case_id=case_id,
        patient_key="p",
        organ_hint=None,
        scanner=scanner,
        images=(),
        indexed_at=START + timedelta(hours=hours),
    )


def draft(
    case_id: str, status: str, *, model: str = "m/1", prompt: str = "p1", run: str = "r"
) -> DraftRecord:
    return DraftRecord.model_validate(
        {
            "case_id": case_id,
            "run_id": run,
            "model_version": model,
            "prompt_version": prompt,
            "config_hash": "h",
            "status": status,
        }
    )


def review(case_id: str, annotation: int, hours: int) -> ReviewRecord:
    at = START + timedelta(hours=hours)
    return ReviewRecord(
        review_id=f"{annotation}-{hours}",
        annotation_id=annotation,
        task_id=1,
        case_id=case_id,
        model_version=None,
        reader="x",
        findings="f",
        impression="i",
        entities=None,
        boxes=(),
        origins={},
        lead_time_s=1.0,
        created_at=START,
        updated_at=at,
    )


def test_an_empty_workspace_has_empty_rooms(workspace: Store) -> None:
    assert tables.read_instances(workspace) == []
    assert tables.read_cases(workspace) == []
    assert tables.read_drafts(workspace) == []
    assert tables.current_reviews(workspace) == {}


@pytest.mark.parametrize("files", [("a", "b"), ("b", "a")])
def test_the_newest_row_counts_whatever_its_file_is_called(workspace: Store, files: tuple[str, str]) -> None:
    write(workspace, "instances", files[0], instance("u", 1, "new"), instance("v", 1))
    write(workspace, "instances", files[1], instance("u", 0, "old"))
    write(workspace, "cases", files[0], case("c2", 2, "new"))
    write(workspace, "cases", files[1], case("c2", 1, "old"), case("c1", 1, "only"))
    assert {row.uri: row.etag for row in tables.read_instances(workspace)} == {"u": "new", "v": "e"}
    assert [(row.case_id, row.scanner) for row in tables.read_cases(workspace)] == [
        ("c1", "only"),
        ("c2", "new"),
    ]


@pytest.mark.parametrize("files", [("a", "b"), ("b", "a")])
def test_a_draft_replaces_a_rejection_of_its_case_model_and_prompt_only(
    workspace: Store, files: tuple[str, str]
) -> None:
    write(workspace, "drafts", files[0], draft("c", "rejected"), draft("c", "rejected", model="m/2"))
    write(workspace, "drafts", files[1], draft("c", "draft"))
    found = {row.model_version: row.status for row in tables.read_drafts(workspace)}
    assert found == {"m/1": "draft", "m/2": "rejected"}


def test_drafts_are_read_by_model_and_prompt(workspace: Store) -> None:
    write(
        workspace,
        "drafts",
        "a",
        draft("c", "draft"),
        draft("c", "draft", model="m/2"),
        draft("c", "draft", prompt="p2"),
    )
    assert len(tables.read_drafts(workspace)) == 3
    assert len(tables.read_drafts(workspace, model_version="m/1")) == 2
    (one,) = tables.read_drafts(workspace, model_version="m/1", prompt_version="p2")
    assert one.prompt_version == "p2"


def test_the_review_changed_last_counts_whoever_wrote_it(workspace: Store) -> None:
    write(workspace, "reviews", "b", review("c", 1, 1), review("d", 3, 1))
    write(workspace, "reviews", "a", review("c", 2, 5), review("c", 1, 3))
    assert len(tables.read_reviews(workspace)) == 4
    current = tables.current_reviews(workspace)
    assert {key: row.annotation_id for key, row in current.items()} == {"c": 2, "d": 3}


def test_a_deleted_annotation_is_out_and_the_one_before_it_counts_again(workspace: Store) -> None:
    first, second = said("c", "ann", 1), said("c", "bob", 2)
    gone = second.model_copy(update={"deleted": True, "updated_at": START + timedelta(hours=3)})
    write_said(workspace, first, second)
    assert tables.current_reviews(workspace)["c"].reader == "bob"
    write_said(workspace, gone)
    assert tables.current_reviews(workspace)["c"].reader == "ann"
    assert [row.reader for row in tables.readings(workspace)["c"]] == ["ann"]


def test_an_escape_is_no_answer_but_the_case_is_done(workspace: Store) -> None:
    write_said(workspace, said("c", "ann", 1), said("c", "bob", 2, escape="cannot-judge"))
    write_said(workspace, said("d", "ann", 1, escape="bad-image"))
    assert {key: row.reader for key, row in tables.current_reviews(workspace).items()} == {"c": "ann"}
    assert tables.count_reviewed(workspace) == 1
    assert tables.done_cases(workspace) == {"c", "d"}


def test_a_readers_escape_takes_back_what_the_same_reader_said_before(workspace: Store) -> None:
    other = {"annotation_id": 7, "task_id": 7}
    write_said(workspace, said("c", "ann", 1), said("c", "ann", 2, escape="cannot-judge", **other))
    assert tables.current_reviews(workspace) == {}


def test_an_adjudication_decides_whatever_is_said_after_it(workspace: Store) -> None:
    judged = said("c", "eve", 2, project="court", adjudicates=True)
    write_said(
        workspace, said("c", "ann", 1), judged, said("c", "bob", 5, entities=entities(lesion="present"))
    )
    assert tables.current_reviews(workspace)["c"].reader == "eve"
    assert tables.disputed_cases(workspace) == {}
    changed = judged.model_copy(update={"escape": "cannot-judge", "updated_at": START + timedelta(hours=9)})
    write_said(workspace, changed)
    assert tables.current_reviews(workspace) == {}


def test_readers_who_disagree_make_a_case_disputed_until_somebody_adjudicates(workspace: Store) -> None:
    coarse = entities(parenchyma="coarse")
    write_said(workspace, said("c", "ann", 1), said("c", "bob", 2, entities=coarse))
    write_said(workspace, said("c", "dan", 0, entities=None))
    write_said(workspace, said("d", "ann", 1), said("d", "bob", 2, findings="other words, same choices"))
    write_said(workspace, said("e", "ann", 1), said("e", "bob", 2, entities=coarse, escape="bad-image"))
    write_said(workspace, said("f", "ann", 1), said("f", "bob", 2, entities=None))
    disputed = tables.disputed_cases(workspace)
    assert {key: [row.reader for row in rows] for key, rows in disputed.items()} == {"c": ["ann", "bob"]}
    assert tables.current_reviews(workspace)["c"].reader == "bob"
    write_said(workspace, said("c", "eve", 3, project="court", adjudicates=True))
    assert tables.disputed_ids(workspace) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "disagree"),
    [
        ({}, {"size_mm": "12", "segment": "II"}, False),
        ({"size_mm": "30"}, {"size_mm": "12"}, False),
        ({"segment": "V"}, {"segment": "II"}, True),
        ({"margin": "ill-defined"}, {"margin": "not assessed"}, True),
    ],
)
def test_what_only_one_gave_of_a_place_and_numbers_are_no_disagreement(
    mine: dict[str, str], theirs: dict[str, str], disagree: bool
) -> None:
    one, other = (parse_entities(entities(lesion="present", **more)) for more in (mine, theirs))
    assert tables.differ(one, other) is tables.differ(other, one) is disagree


def test_readers_of_different_organs_disagree() -> None:
    one, other = parse_entities(entities("liver")), parse_entities(entities("kidney"))
    assert tables.differ(one, other)


def test_reviews_from_before_there_were_projects_still_count(workspace: Store) -> None:
    older = ReviewRecord.table([said("c", "ann", 1)])
    older = older.drop_columns(["escape", "deleted", "project", "adjudicates"])
    workspace.write_table(older, "reviews", "old.parquet")
    write_said(workspace, said("d", "ann", 2, project="p"))
    assert sorted(tables.current_reviews(workspace)) == ["c", "d"]
