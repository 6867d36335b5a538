"""Training snapshots: frozen, named by content, split by patient for ever."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from sonoloop.jobs.freezing.config import SnapshotConfig
from sonoloop.jobs.freezing.register import Past, Side
from sonoloop.jobs.freezing.rows import CaseFacts
from sonoloop.jobs.freezing.sides import case_sides, side_by_lot
from sonoloop.jobs.snapshot import Snapshot, SnapshotRow, freeze_snapshot, read_rows, read_snapshot
from sonoloop.platform.duplicates import DuplicateRecord, write_duplicates
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.records import CaseImage, CaseRecord, ReviewRecord
from sonoloop.platform.tables import read_cases_of
from sonoloop.platform.workspace import Store

KEY = SecretStr("a key for tests only")
START = datetime(2026, 1, 1, tzinfo=UTC)
ENTITIES = '{"organ":"liver","parenchyma":"normal","lesion":"absent"}'
FEW = SnapshotConfig(min_train=1)
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


def on_side(side: Side, share: float = 0.3) -> list[str]:
    """Cases of the fixture whose patient stands on this side."""
    return [f"c{number:02}" for number in range(40) if side_by_lot(PATIENTS[number // 2], share) == side]


def freeze(workspace: Store, *, test_share: float) -> Snapshot:
    return freeze_snapshot(workspace, FEW, test_share=test_share)


def pull(workspace: Store, name: str, *reviews: ReviewRecord) -> None:
    workspace.write_table(ReviewRecord.table(list(reviews)), "reviews", f"{name}.parquet")


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_held_out_share_of_ten_thousand_patients_is_within_a_twentieth_of_what_was_asked(
    share: float,
) -> None:
    held_out = sum(side_by_lot(patient, share) == "held-out" for patient in PATIENTS) / len(PATIENTS)
    assert held_out == pytest.approx(share, rel=0.05)


def test_a_lot_depends_on_patient_and_share_alone() -> None:
    small = {patient for patient in PATIENTS if side_by_lot(patient, 0.2) == "held-out"}
    assert small == {patient for patient in small if side_by_lot(patient, 0.3) == "held-out"}
    assert side_by_lot("40000000" + "0" * 16, 0.25) == "train"
    assert side_by_lot("3fffffff" + "0" * 16, 0.25) == "held-out"


def test_no_patient_stands_on_both_sides(workspace: Store) -> None:
    pull(workspace, "0", *(review(f"c{number:02}") for number in range(40)))
    snapshot = freeze(workspace, test_share=0.3)
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
    first = freeze(workspace, test_share=0.3)
    rows = read_snapshot(workspace, first.name, "train")
    assert freeze(workspace, test_share=0.3) == first
    pull(workspace, "1", review("c00", hour=5, findings="changed"))
    second = freeze(workspace, test_share=0.3)
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
        review("c13", findings="as typed: <|image_pad|>"),
        review("of a case that is not here"),
    )
    snapshot = freeze(workspace, test_share=0.1)
    assert (snapshot.num_train + snapshot.num_test, snapshot.num_left_out) == (10, 5)
    assert snapshot.left_out == {"case-gone": 1, "control-token": 1, "empty-report": 2, "no-entities": 1}


def test_without_a_usable_review_there_is_nothing_to_learn_and_nothing_is_written(workspace: Store) -> None:
    for reviews in ((), (review("c00", entities=None),)):
        if reviews:
            pull(workspace, "0", *reviews)
        with pytest.raises(NothingToDoError, match="no review to learn from"):
            freeze(workspace, test_share=0.3)
    assert not workspace.exists("training")
    assert not list(workspace.list_objects("training"))


def test_a_snapshot_that_is_not_there_is_a_config_error(workspace: Store) -> None:
    with pytest.raises(ConfigError, match="no snapshot"):
        read_snapshot(workspace, "0123", "test")


def test_near_duplicates_on_both_sides_are_left_out_of_both_and_counted(workspace: Store) -> None:
    pull(workspace, "0", *(review(f"c{number:02}") for number in range(40)))
    train, test = on_side("train"), on_side("held-out")
    before = freeze(workspace, test_share=0.3)
    mark(workspace, (train[0], test[0]), (train[1], train[2]), (test[1], test[2]))
    after = freeze(workspace, test_share=0.3)
    kept = {
        side: {row.case_id for row in read_snapshot(workspace, after.name, side)}
        for side in ("train", "test")
    }
    assert kept == {"train": {*train[1:]}, "test": {*test[1:]}}
    assert (after.left_out, before.left_out) == ({"straddling": 2}, {})
    assert after.name != before.name
    assert len(read_rows(workspace, before.name)) == 40, "a frozen one stays as it was"


def test_a_duplicate_that_nobody_reviewed_leaves_its_group_out_too(workspace: Store) -> None:
    train, test = on_side("train"), on_side("held-out")
    mark(workspace, (train[0], test[0], test[1]))
    pull(workspace, "0", *(review(name) for name in train))
    first = freeze(workspace, test_share=0.3)
    pull(workspace, "1", review(test[0], hour=1), review(test[1], hour=1), review(test[2], hour=1))
    second = freeze(workspace, test_share=0.3)
    for snapshot in (first, second):
        rows = read_snapshot(workspace, snapshot.name, "train")
        assert {row.case_id for row in rows} == {*train[1:]}
    assert [row.case_id for row in read_snapshot(workspace, second.name, "test")] == [test[2]]


def test_a_marked_case_that_is_not_there_any_more_is_on_no_side() -> None:
    cases = [CaseFacts(case_id=name, patient_key=PATIENTS[0], group_key="a") for name in "ab"]
    side = side_by_lot(PATIENTS[0], 0.3)
    assert case_sides(cases, Past(), test_share=0.3).members == {"a": side, "b": side}
    both = [
        CaseFacts(case_id=name, patient_key=patient, group_key=group)
        for name, patient, group in (("a", "0" * 24, "a"), ("b", "f" * 24, "a"), ("c", "f" * 24, None))
    ]
    found = case_sides(both, Past(), test_share=0.3).members
    assert found == {"a": "straddling", "b": "straddling", "c": "train"}


def test_a_case_that_readers_disagree_on_is_left_out_and_counted_until_it_is_adjudicated(
    workspace: Store,
) -> None:
    rows = [review(f"c{number:02}") for number in range(40)]
    other = {"annotation_id": 2, "reader": "s", "entities": ENTITIES.replace("normal", "coarse")}
    pull(workspace, "a", *rows, review("c07", hour=1, **other))
    snapshot = freeze(workspace, test_share=0.25)
    assert snapshot.left_out == {"disputed": 1}
    assert snapshot.num_train + snapshot.num_test == 39
    judged = {"annotation_id": 3, "task_id": 2, "reader": "judge", "adjudicates": True}
    pull(workspace, "b", review("c07", hour=2, **judged))
    settled = freeze(workspace, test_share=0.25)
    assert (settled.left_out, settled.num_train + settled.num_test) == ({}, 40)


def test_one_review_is_refused_with_what_to_do(workspace: Store) -> None:
    pull(workspace, "0", review(on_side("train")[0]))
    with pytest.raises(NothingToDoError, match=r"1 reviews are too few .*min_train is 8 .*sonoloop pull"):
        freeze_snapshot(workspace, test_share=0.3)
    assert not list(workspace.list_objects("training"))


def test_a_single_class_is_told_of_and_two_are_not(
    workspace: Store, caplog: pytest.LogCaptureFixture
) -> None:
    train = on_side("train")
    pull(workspace, "0", *(review(name) for name in train))
    alike = freeze(workspace, test_share=0.3).warnings
    assert [("one organ" in text, "same of lesions" in text) for text in alike[:2]] == [
        (True, False),
        (False, True),
    ]
    assert "no case is held out" in alike[2]
    assert all(text in caplog.text for text in alike)
    kidney = '{"organ":"kidney","collecting_system":"not dilated","lesion":"not assessed"}'
    pull(workspace, "1", review(train[0], hour=1, entities=kidney), review(on_side("held-out")[0]))
    assert freeze(workspace, test_share=0.3).warnings == ()


def test_reports_of_blanks_alone_are_empty(workspace: Store) -> None:
    train = on_side("train")
    pull(workspace, "0", review(train[0]), review(train[1], findings=" \n"))
    snapshot = freeze(workspace, test_share=0.3)
    assert (snapshot.num_train, snapshot.left_out) == (1, {"empty-report": 1})


def with_images(workspace: Store, names: list[str]) -> list[str]:
    """Give each case an image of its own; gives their keys, none of which the store holds yet."""
    keys = [f"images/ab/{name}.png" for name in names]
    cases = [
        case(name, PATIENTS[int(name[1:]) // 2]).model_copy(
            update={
                "indexed_at": START.replace(hour=1),
                "images": (CaseImage(image_key=key, instance_id="i", frame_index=0, width=9, height=9),),
            }
        )
        for name, key in zip(names, keys, strict=True)
    ]
    workspace.write_table(CaseRecord.table(cases), "cases", "1.parquet")
    return keys


def test_a_case_whose_image_is_gone_is_left_out_and_without_any_image_nothing_is_frozen(
    workspace: Store,
) -> None:
    train = on_side("train")[:9]
    keys = with_images(workspace, train)
    pull(workspace, "0", *(review(name) for name in train))
    with pytest.raises(NothingToDoError, match=r"image-missing: 9\); images are gone .* `sonoloop index`"):
        freeze_snapshot(workspace, test_share=0.3)
    for key in keys[1:]:
        workspace.write_bytes(b"a picture", key)
    snapshot = freeze_snapshot(workspace, test_share=0.3)
    assert (snapshot.num_train, snapshot.left_out) == (8, {"image-missing": 1})
    assert train[0] not in {row.case_id for row in read_snapshot(workspace, snapshot.name, "train")}


def test_rows_from_before_there_were_weights_all_count_the_same(workspace: Store) -> None:
    rows = [SnapshotRow(**review(name).model_dump(), patient_key=PATIENTS[0], split="train") for name in "ab"]
    older = SnapshotRow.table(rows).drop_columns(["weight"])
    workspace.write_table(older, "training", "older", "reviews.parquet")
    assert [row.weight for row in read_snapshot(workspace, "older", "train")] == [1.0, 1.0]


def test_what_an_older_snapshot_held_out_stays_so_though_it_is_in_no_register(workspace: Store) -> None:
    train = on_side("train")
    held = SnapshotRow(
        **review(train[0]).model_dump(), patient_key=PATIENTS[int(train[0][1:]) // 2], split="test"
    )
    workspace.write_table(SnapshotRow.table([held]), "training", "older", "reviews.parquet")
    pull(workspace, "0", *(review(name) for name in train))
    for _ in range(2):
        snapshot = freeze(workspace, test_share=0.3)
        assert (snapshot.num_test, snapshot.num_train) == (2, len(train) - 2), "both cases of the patient"


def test_only_the_rows_of_cases_that_are_asked_for_are_held(workspace: Store) -> None:
    assert read_cases_of(workspace, []) == {}
    found = read_cases_of(workspace, ["c31", "c02", "none"])
    assert {name: one.patient_key for name, one in found.items()} == {
        "c02": PATIENTS[1],
        "c31": PATIENTS[15],
    }
    gone = case("c02", PATIENTS[1]).model_copy(
        update={"withdrawn": True, "indexed_at": START.replace(hour=1)}
    )
    workspace.write_table(CaseRecord.table([gone]), "cases", "1.parquet")
    assert set(read_cases_of(workspace, ["c31", "c02"])) == {"c31"}
