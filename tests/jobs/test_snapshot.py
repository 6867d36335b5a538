"""Training snapshots: frozen, named by content, split by patient for ever."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from sonoloop.jobs.snapshot import freeze_snapshot, read_snapshot, split_of, straddling_cases
from sonoloop.platform.duplicates import DuplicateRecord, write_duplicates
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.records import CaseRecord, ReviewRecord
from sonoloop.platform.workspace import Store

KEY = SecretStr("a key for tests only")
START = datetime(2026, 1, 1, tzinfo=UTC)
ENTITIES = '{"organ":"liver","parenchyma":"normal","lesion":"absent"}'
PATIENTS = [pseudonym(KEY, "patient", f"PID-{number}") for number in range(10_000)]


def review(case_id: str, *, hour: int = 0, **changes: object) -> ReviewRecord:
    at = START.replace(hour=hour)
    return ReviewRecord.model_validate(
        {
            "review_id": f"{case_id}-{hour}",
            "annotation_id": 1,
            "task_id": 1,
            "case_id": case_id,
            "model_version": None,
            "reader": "r",
            "findings": "f",
            "impression": "i",
            "entities": ENTITIES,
            "boxes": (),
            "origins": {"findings": "manual"},
            "lead_time_s": None,
            "created_at": at,
            "updated_at": at,
            **changes,
        }
    )


def case(case_id: str, patient: str) -> CaseRecord:
    return CaseRecord(
        case_id=case_id, patient_key=patient, organ_hint=None, scanner=None, images=(), indexed_at=START
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    """Forty cases of twenty patients."""
    store = Store(str(tmp_path))
    cases = [case(f"c{number:02}", PATIENTS[number // 2]) for number in range(40)]
    store.write_table(CaseRecord.table(cases), "cases", "0.parquet")
    return store


def mark(workspace: Store, *groups: tuple[str, ...]) -> None:
    write_duplicates(
        workspace,
        [
            DuplicateRecord(case_id=name, group_key=min(group), distance=3, marked_at=START)
            for group in groups
            for name in group
        ],
    )


def on_side(side: str, share: float = 0.3) -> list[str]:
    """Cases of the fixture whose patient stands on this side."""
    return [f"c{number:02}" for number in range(40) if split_of(PATIENTS[number // 2], share) == side]


def pull(workspace: Store, name: str, *reviews: ReviewRecord) -> None:
    workspace.write_table(ReviewRecord.table(list(reviews)), "reviews", f"{name}.parquet")


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_held_out_share_of_ten_thousand_patients_is_within_a_twentieth_of_what_was_asked(
    share: float,
) -> None:
    held_out = sum(split_of(patient, share) == "test" for patient in PATIENTS) / len(PATIENTS)
    assert held_out == pytest.approx(share, rel=0.05)


def test_a_patient_once_held_out_stays_so_when_the_share_grows() -> None:
    small = {patient for patient in PATIENTS if split_of(patient, 0.2) == "test"}
    assert small == {patient for patient in small if split_of(patient, 0.3) == "test"}
    assert [split_of(patient, 0.25) for patient in PATIENTS[:8]] == [
        split_of(patient, 0.25) for patient in PATIENTS[:8]
    ]
    assert split_of("40000000" + "0" * 16, 0.25) == "train"
    assert split_of("3fffffff" + "0" * 16, 0.25) == "test"


def test_no_patient_stands_on_both_sides(workspace: Store) -> None:
    pull(workspace, "0", *(review(f"c{number:02}") for number in range(40)))
    snapshot = freeze_snapshot(workspace, test_share=0.3)
    sides = {
        side: {row.patient_key for row in read_snapshot(workspace, snapshot.name, side)}
        for side in ("train", "test")
    }
    assert sides["train"]
    assert sides["test"]
    assert sides["train"].isdisjoint(sides["test"])
    assert (snapshot.num_train + snapshot.num_test, snapshot.num_left_out) == (40, 0)


def test_the_same_reviews_give_the_same_snapshot_and_a_new_one_another(workspace: Store) -> None:
    pull(workspace, "0", *(review(f"c{number:02}") for number in range(30)))
    first = freeze_snapshot(workspace, test_share=0.3)
    rows = read_snapshot(workspace, first.name, "train")
    assert freeze_snapshot(workspace, test_share=0.3) == first
    pull(workspace, "1", review("c00", hour=5, findings="changed"))
    second = freeze_snapshot(workspace, test_share=0.3)
    assert second.name != first.name
    assert read_snapshot(workspace, first.name, "train") == rows, "a frozen snapshot stays as it was"


def test_unusable_reviews_are_left_out_and_counted(workspace: Store) -> None:
    pull(
        workspace,
        "0",
        *(review(f"c{number:02}") for number in range(10)),
        review("c10", entities=None),
        review("c11", findings=""),
        review("c12", impression=""),
        review("of a case that is not here"),
    )
    snapshot = freeze_snapshot(workspace, test_share=0.1)
    assert (snapshot.num_train + snapshot.num_test, snapshot.num_left_out) == (10, 3)


def test_without_a_usable_review_there_is_nothing_to_learn_and_nothing_is_written(workspace: Store) -> None:
    for reviews in ((), (review("c00", entities=None),)):
        if reviews:
            pull(workspace, "0", *reviews)
        with pytest.raises(NothingToDoError, match="no review to learn from"):
            freeze_snapshot(workspace, test_share=0.3)
    assert not workspace.exists("training")
    assert not list(workspace.list_objects("training"))


def test_a_snapshot_that_is_not_there_is_a_config_error(workspace: Store) -> None:
    with pytest.raises(ConfigError, match="no snapshot"):
        read_snapshot(workspace, "0123", "test")


def test_near_duplicates_on_both_sides_are_left_out_of_both_and_counted(workspace: Store) -> None:
    pull(workspace, "0", *(review(f"c{number:02}") for number in range(40)))
    train, test = on_side("train"), on_side("test")
    before = freeze_snapshot(workspace, test_share=0.3)
    mark(workspace, (train[0], test[0]), (train[1], train[2]), (test[1], test[2]))
    after = freeze_snapshot(workspace, test_share=0.3)
    kept = {
        side: {row.case_id for row in read_snapshot(workspace, after.name, side)}
        for side in ("train", "test")
    }
    assert kept == {"train": {*train[1:]}, "test": {*test[1:]}}
    assert (after.num_straddling, after.num_left_out) == (2, 2)
    assert (before.num_straddling, before.num_left_out) == (0, 0)
    assert after.name != before.name
    assert len(read_snapshot(workspace, before.name, "train")) == len(train), "a frozen one stays as it was"


def test_a_duplicate_that_nobody_reviewed_leaves_its_group_out_too(workspace: Store) -> None:
    train, test = on_side("train"), on_side("test")
    mark(workspace, (train[0], test[0], test[1]))
    pull(workspace, "0", *(review(name) for name in train))
    first = freeze_snapshot(workspace, test_share=0.3)
    pull(workspace, "1", review(test[0], hour=1), review(test[1], hour=1), review(test[2], hour=1))
    second = freeze_snapshot(workspace, test_share=0.3)
    for snapshot in (first, second):
        rows = read_snapshot(workspace, snapshot.name, "train")
        assert {row.case_id for row in rows} == {*train[1:]}
    assert [row.case_id for row in read_snapshot(workspace, second.name, "test")] == [test[2]]


def test_a_marked_case_that_is_not_there_any_more_is_on_no_side() -> None:
    cases = [case("a", PATIENTS[0]), case("b", PATIENTS[0])]
    groups = {"a": "a", "b": "a", "gone": "a"}
    assert straddling_cases(cases, groups, 0.3) == frozenset()
    both = [case("a", "0" * 24), case("b", "f" * 24), case("alone", "f" * 24)]
    assert straddling_cases(both, groups, 0.3) == {"a", "b"}


def test_a_case_that_readers_disagree_on_is_left_out_and_counted_until_it_is_adjudicated(
    workspace: Store,
) -> None:
    rows = [review(f"c{number:02}") for number in range(40)]
    other = {"annotation_id": 2, "reader": "s", "entities": ENTITIES.replace("normal", "coarse")}
    pull(workspace, "a", *rows, review("c07", hour=1, **other))
    snapshot = freeze_snapshot(workspace, test_share=0.25)
    assert (snapshot.num_disputed, snapshot.num_left_out) == (1, 1)
    assert snapshot.num_train + snapshot.num_test == 39
    judged = {"annotation_id": 3, "task_id": 2, "reader": "judge", "adjudicates": True}
    pull(workspace, "b", review("c07", hour=2, **judged))
    settled = freeze_snapshot(workspace, test_share=0.25)
    assert (settled.num_disputed, settled.num_train + settled.num_test) == (0, 40)
