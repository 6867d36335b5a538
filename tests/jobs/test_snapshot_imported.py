"""Imported conversations in a snapshot: split by their group, and apart from held-out cases."""

from __future__ import annotations

import pytest
from tests.jobs.test_snapshot import PATIENTS, START, on_side, pull, review, with_images
from tests.jobs.test_snapshot import workspace as workspace  # a fixture

from sonoloop.jobs.evaluating.held_out import held_out
from sonoloop.jobs.freezing.again import recreate_snapshot
from sonoloop.jobs.freezing.config import SnapshotConfig
from sonoloop.jobs.freezing.sides import side_by_lot
from sonoloop.jobs.snapshot import (
    ConversationRow,
    SnapshotRow,
    check_apart,
    freeze_snapshot,
    read_conversations,
)
from sonoloop.platform.duplicates import DuplicateRecord, write_duplicates
from sonoloop.platform.errors import ConfigError, HeldOutError, NothingToDoError
from sonoloop.platform.records import ConversationRecord, Turn, content_id
from sonoloop.platform.workspace import Store

MINE = SnapshotConfig(imported=("mine",))
TURNS = (Turn(role="user", text="<image> Describe."), Turn(role="assistant", text="Normal."))


def talk(name: str, *images: str, group: str | None = None) -> ConversationRecord:
    return ConversationRecord(
        conversation_id=name,
        source_id=None,
        image_keys=images,
        turns=TURNS,
        group_key=group or content_id(name),
        indexed_at=START,
    )


def bring(workspace: Store, *talks: ConversationRecord, name: str = "mine", there: bool = True) -> None:
    table = ConversationRecord.table(list(talks))
    workspace.write_table(table, "imported", name, "conversations", "1.parquet")
    for key in {key for one in talks for key in one.image_keys} if there else ():
        workspace.write_bytes(b"a picture", key)


def splits(workspace: Store, name: str) -> dict[str, str]:
    rows = [row for split in ("train", "test") for row in read_conversations(workspace, name, split)]
    return {row.conversation_id: row.split for row in rows}


def test_conversations_alone_make_a_snapshot_split_by_the_hash_of_their_group(workspace: Store) -> None:
    talks = [talk(f"t{number:02}", f"images/00/{number}.png") for number in range(40)]
    bring(workspace, *talks)
    snapshot = freeze_snapshot(workspace, MINE, test_share=0.3)
    expected = {
        one.conversation_id: "train" if side_by_lot(one.group_key, 0.3) == "train" else "test"
        for one in talks
    }
    assert splits(workspace, snapshot.name) == expected
    assert snapshot.num_train_conversations == sum(side == "train" for side in expected.values())
    (first, *_) = read_conversations(workspace, snapshot.name, "train")
    assert (first.turns, first.weight) == (TURNS, 1.0)
    assert freeze_snapshot(workspace, MINE, test_share=0.3) == snapshot
    assert recreate_snapshot(workspace, snapshot.name).conversations[0].conversation_id == "t00"
    assert read_conversations(workspace, snapshot.name, "gold") == []


def test_what_shows_a_held_out_cases_picture_or_is_of_its_patient_is_not_trained_on(
    workspace: Store,
) -> None:
    train, test = on_side("train"), on_side("held-out")
    trained, other, held = with_images(workspace, [train[0], train[2], test[0]])
    workspace.write_bytes(b"a picture", other)
    pull(workspace, "0", *(review(name) for name in (*train, test[0])))
    patient = PATIENTS[int(test[0][1:]) // 2]
    group = {side: _group(side) for side in ("train", "held-out")}
    talks = [
        talk("shows-held", held, group=group["train"]),
        talk("shows-both", other, group=group["held-out"]),
        talk("shows-trained", trained, group=_group("train", 1)),
        talk("of-patient", "images/00/p.png", group=patient),
        talk("apart", "images/00/a.png", group=_group("train", 2)),
    ]
    bring(workspace, *talks)
    snapshot = freeze_snapshot(workspace, MINE, test_share=0.3)
    assert splits(workspace, snapshot.name) == {
        "shows-trained": "train",
        "of-patient": "test",
        "apart": "train",
    }
    assert snapshot.conversations_left_out == {"straddling": 2}


def _group(side: str, number: int = 0) -> str:
    found = (content_id(f"group {n}") for n in range(1000))
    return [key for key in found if side_by_lot(key, 0.3) == side][number]


def test_a_case_whose_picture_a_conversation_taught_is_not_tested_on_afterwards(workspace: Store) -> None:
    train, test = on_side("train"), on_side("held-out")
    pull(workspace, "0", *(review(name) for name in train))
    bring(workspace, talk("t", f"images/ab/{test[0]}.png", group=_group("train")))
    first = freeze_snapshot(workspace, MINE, test_share=0.3)
    assert first.num_train_conversations == 1
    with_images(workspace, [test[0]])
    pull(workspace, "1", *(review(name) for name in test))
    second = freeze_snapshot(workspace, SnapshotConfig(), test_share=0.3)
    assert (second.num_test, second.left_out) == (len(test) - 1, {"straddling": 1})


def test_conversations_are_looked_at_again_before_they_are_trained_on(workspace: Store) -> None:
    bring(workspace, *(talk(f"t{number:02}", f"images/00/{number}.png") for number in range(40)))
    snapshot = freeze_snapshot(workspace, MINE, test_share=0.3)
    held = read_conversations(workspace, snapshot.name, "test")[0]
    train = read_conversations(workspace, snapshot.name, "train")
    check_apart(workspace, (), train)
    shown = train[0].model_copy(update={"image_keys": held.image_keys})
    for bad in (held, shown):
        with pytest.raises(HeldOutError, match=f"1 of 2 rows .*{bad.conversation_id}"):
            check_apart(workspace, (), [train[1], bad])


def test_what_comes_twice_or_lacks_its_image_is_left_out_and_a_set_that_is_not_there_refused(
    workspace: Store,
) -> None:
    talks = [talk(f"t{number:02}", f"images/00/{number}.png") for number in range(20)]
    bring(workspace, *talks)
    without = talk("shows none")
    bring(workspace, talks[0], talk("gone", "images/00/none.png"), without, name="other", there=False)
    settings = SnapshotConfig(imported=("mine", "other"))
    snapshot = freeze_snapshot(workspace, settings, test_share=0.01)
    assert snapshot.conversations_left_out == {"duplicate": 1, "image-missing": 2}
    assert len(splits(workspace, snapshot.name)) == 20
    workspace.write_bytes(b"a picture", "images/00/none.png")
    made = recreate_snapshot(workspace, snapshot.name)
    assert made.conversations_left_out == snapshot.conversations_left_out, "as it was then"
    with pytest.raises(ConfigError, match=r"names none, .*; imported sets: mine, other"):
        freeze_snapshot(workspace, SnapshotConfig(imported=("none",)), test_share=0.3)
    with pytest.raises(NothingToDoError, match="no review to learn from"):
        freeze_snapshot(workspace, SnapshotConfig(), test_share=0.3)


def test_held_out_cases_that_a_training_was_shown_by_imported_data_prove_nothing(workspace: Store) -> None:
    """The case's own picture, a near-duplicate's, or another picture of its patient."""
    names = on_side("held-out")[:4]
    keys = with_images(workspace, names)
    patient = PATIENTS[int(names[3][1:]) // 2]
    taught = [
        talk("shows", keys[0]),
        talk("of-patient", "images/00/p.png", group=patient),
        talk("held-out-itself", keys[2]),
    ]
    sides = ("train", "train", "test")
    learned = [
        ConversationRow(**one.model_dump(), split=side) for one, side in zip(taught, sides, strict=True)
    ]
    held = [
        SnapshotRow(**review(name).model_dump(), patient_key=f"patient {name}", split="test")
        for name in names
    ]
    held[3] = held[3].model_copy(update={"patient_key": patient})
    workspace.write_table(SnapshotRow.table(held), "training", "s", "reviews.parquet")
    workspace.write_table(ConversationRow.table(learned), "training", "s", "conversations.parquet")
    workspace.write_bytes(b'{"snapshot": "s"}', "models", "m", "1", "lineage.json")
    found = held_out(workspace, "s", "m/1")
    assert found.seen == {"m/1": {names[0], names[3]}}
    marks = [
        DuplicateRecord(case_id=name, group_key=names[0], distance=3, marked_at=START) for name in names[:2]
    ]
    write_duplicates(workspace, marks)
    again = held_out(workspace, "s", "m/1")
    assert again.seen == {"m/1": {names[0], names[1], names[3]}}
    assert [row.case_id for row in again.rows] == [names[2]]
