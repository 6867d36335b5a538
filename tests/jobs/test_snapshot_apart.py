"""Nothing that was ever held out is trained on, whatever happens to patients, groups, gold and shares."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from said import give_tasks
from tests.jobs.test_snapshot import FEW, PATIENTS, START, case, mark, on_side, pull, review
from tests.jobs.test_snapshot import workspace as workspace  # a fixture

from sonoloop.jobs.freezing.register import Kind, Past, Side, facts_of
from sonoloop.jobs.freezing.rows import CaseFacts, ConversationRow, SnapshotRow
from sonoloop.jobs.freezing.sides import Sides, case_sides, conversation_sides
from sonoloop.jobs.snapshot import check_apart, freeze_snapshot, read_rows, read_snapshot
from sonoloop.platform.errors import HeldOutError, NothingToDoError
from sonoloop.platform.records import CaseRecord, ConversationRecord, Turn
from sonoloop.platform.workspace import Store

NUM_CASES, NUM_PATIENTS = 30, 24
SHARES = (0.1, 0.3, 0.5, 0.8)


class World:
    """Cases whose patients, groups, pictures and gold change, and all that was ever frozen of them."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.owner = {f"c{n:02}": PATIENTS[draw.randrange(NUM_PATIENTS)] for n in range(NUM_CASES)}
        self.there: list[str] = []
        self.group: dict[str, str] = {}
        self.gold: set[str] = set()
        self.talks = [self._talk(n) for n in range(8)]
        self.past = Past()
        self.stood: list[tuple[dict[str, Side], dict[str, str], dict[str, str]]] = []

    def _talk(self, number: int) -> ConversationRecord:
        draw = self.draw
        owner = PATIENTS[draw.randrange(2 * NUM_PATIENTS)]
        images = tuple(f"i{draw.randrange(NUM_CASES + 4):02}" for _ in range(draw.randrange(1, 3)))
        return ConversationRecord(
            conversation_id=f"t{number}",
            source_id=None,
            image_keys=images,
            turns=(Turn(role="assistant", text="t"),),
            group_key=owner,
            indexed_at=START,
        )

    def change(self) -> None:
        draw, names = self.draw, sorted(self.owner)
        # indexed again with another identifier
        self.owner[draw.choice(names)] = PATIENTS[draw.randrange(NUM_PATIENTS)]
        self.there = sorted(draw.sample(names, NUM_CASES - 4))  # the others are withdrawn, for now
        members = draw.sample(self.there, 8)  # marks are made anew by every index run
        self.group = {name: f"g{place // 2}" for place, name in enumerate(members)}
        if draw.random() < 0.3:
            self.gold.add(draw.choice(names))

    def facts(self) -> list[CaseFacts]:
        return [
            CaseFacts(
                case_id=name,
                patient_key=owner,
                group_key=self.group.get(name),
                images=(f"i{name[1:]}",),
                is_gold=name in self.gold,
            )
            for name, owner in self.owner.items()
            if name in self.there
        ]

    def freeze(self, share: float) -> None:
        """As `freeze_snapshot` does, of some of the cases."""
        facts = self.facts()
        sides = case_sides(facts, self.past, test_share=share)
        theirs = conversation_sides(self.talks, facts, sides, self.past, test_share=share)
        reviewed = self.draw.sample(self.there, 12)
        stand = {name: side for name in reviewed if (side := _side(sides, name)) is not None}
        talk = {
            one.conversation_id: side
            for one in self.talks
            if (side := _side(theirs, one.conversation_id)) is not None
        }
        rows = [_row(name, self.owner[name], side) for name, side in stand.items()]
        talks = [
            ConversationRow(
                **one.model_dump(), split="train" if talk[one.conversation_id] == "train" else "test"
            )
            for one in self.talks
            if one.conversation_id in talk
        ]
        for kind, key, side in facts_of(rows, talks, facts):
            self.past.keys[kind, side].add(key)
        owners = {**self.owner, **{one.conversation_id: one.group_key for one in self.talks}}
        self.stood.append(({**stand, **talk}, owners, dict(self.group)))


def _side(sides: Sides, key: str) -> Side | None:
    found = sides.members[key]
    return found if found in ("train", "held-out") else None  # type: ignore[return-value]


def _row(name: str, owner: str, side: Side) -> SnapshotRow:
    split = "train" if side == "train" else "test"
    return SnapshotRow(**review(name).model_dump(), patient_key=owner, split=split)


def _meetings(world: World) -> Iterator[tuple[str, str]]:
    """Whatever stood on both sides, in one snapshot or in two, by itself or through what it shares."""
    ever: dict[tuple[str, str], set[Side]] = defaultdict(set)
    pictures = {one.conversation_id: one.image_keys for one in world.talks}
    for stood, owners, _ in world.stood:
        for key, side in stood.items():
            ever["itself", key].add(side)
            ever["owner", owners[key]].add(side)
            for image in pictures.get(key, ()):
                ever["picture", image].add(side)
    yield from (one for one, sides in ever.items() if len(sides) > 1)
    for stood, _, group in world.stood:
        for key, side in stood.items():
            beside = [other for other in group if group[other] == group.get(key)]
            yield from (("near", other) for other in beside if ever["itself", other] - {side})
            if key.startswith("c") and ever["picture", f"i{key[1:]}"] - {side}:
                yield "picture", key


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), shares=st.lists(st.sampled_from(SHARES), min_size=2, max_size=5))
def test_no_training_side_ever_meets_a_held_out_case_patient_group_or_picture(
    seed: int, shares: list[float]
) -> None:
    world = World(random.Random(seed))
    for share in shares:
        world.change()
        world.freeze(share)
    assert list(_meetings(world)) == []


def test_the_property_sees_a_case_that_changes_sides() -> None:
    world = World(random.Random(1))
    world.stood = [({"c01": side}, world.owner, {}) for side in ("train", "held-out")]  # type: ignore[misc]
    assert ("itself", "c01") in set(_meetings(world))
    assert ("owner", world.owner["c01"]) in set(_meetings(world))


def test_the_register_has_every_kind_of_thing_that_stood_somewhere() -> None:
    world = World(random.Random(5))
    for share in (0.3, 0.5, 0.3):
        world.change()
        world.freeze(share)
    kinds: tuple[Kind, ...] = ("case", "near", "patient", "picture", "imported-picture")
    assert {kind: bool(world.past.all_of(kind)) for kind in kinds} == dict.fromkeys(kinds, True)


@pytest.mark.parametrize("seed", range(3))
def test_frozen_snapshots_of_a_changing_workspace_never_cross(workspace: Store, seed: int) -> None:
    draw = random.Random(seed)
    names = [f"c{number:02}" for number in range(40)]
    sides: dict[str, set[str]] = defaultdict(set)
    for step, share in enumerate((0.3, 0.6, 0.1)):
        pull(workspace, str(step), *(review(name, hour=step) for name in draw.sample(names, 15)))
        mark(workspace, *(tuple(draw.sample(names, 2)) for _ in range(3)))
        give_tasks(workspace, "gold", draw.choice(names), at=START + timedelta(hours=step))
        moved = draw.choice(names)
        again = case(moved, PATIENTS[draw.randrange(20)])
        again = again.model_copy(update={"indexed_at": START + timedelta(hours=step + 1)})
        workspace.write_table(CaseRecord.table([again]), "cases", f"{step + 1}.parquet")
        snapshot = freeze_snapshot(workspace, FEW, test_share=share)
        for row in read_rows(workspace, snapshot.name):
            side = "train" if row.split == "train" else "held-out"
            sides[row.case_id].add(side)
            sides[row.patient_key].add(side)
        assert read_snapshot(workspace, snapshot.name, "train")
    assert [key for key, found in sides.items() if len(found) > 1] == []


def test_a_smaller_share_frees_nobody_and_a_larger_one_takes_nobody_that_was_trained_on(
    workspace: Store,
) -> None:
    names = [f"c{number:02}" for number in range(40)]
    pull(workspace, "0", *(review(name) for name in names))
    first = freeze_snapshot(workspace, FEW, test_share=0.3)
    for share in (0.01, 0.9):
        assert freeze_snapshot(workspace, FEW, test_share=share).name == first.name


def test_gold_is_held_out_with_its_patient_and_whatever_shares_a_picture_with_it(workspace: Store) -> None:
    train = on_side("train")
    gold, sibling, near, other = train[0], train[1], train[2], train[4]
    give_tasks(workspace, "gold", gold)
    pull(workspace, "0", *(review(name) for name in train))
    mark(workspace, (gold, near))
    snapshot = freeze_snapshot(workspace, FEW, test_share=0.3)
    split = {row.case_id: row.split for row in read_rows(workspace, snapshot.name)}
    assert (split[sibling], split[other], split[train[3]]) == ("test", "train", "train")
    assert {gold, near}.isdisjoint(split), "near is of a patient that is trained on"
    assert snapshot.left_out == {"straddling": 2}
    mark(workspace)
    apart = freeze_snapshot(workspace, FEW, test_share=0.3)
    split = {row.case_id: row.split for row in read_rows(workspace, apart.name)}
    assert (split[gold], split[near], apart.num_gold) == ("gold", "train", 1)


def test_a_case_that_becomes_gold_after_it_was_trained_on_is_on_no_side_from_then_on(
    workspace: Store,
) -> None:
    train = on_side("train")
    pull(workspace, "0", *(review(name) for name in train))
    first = freeze_snapshot(workspace, FEW, test_share=0.3)
    give_tasks(workspace, "gold", train[0])
    second = freeze_snapshot(workspace, FEW, test_share=0.3)
    assert (second.left_out, second.num_gold) == ({"on-both-sides": 2}, 0)
    with pytest.raises(HeldOutError, match=rf"^2 of {len(train)} rows .*{train[0]}"):
        read_snapshot(workspace, first.name, "train")
    assert len(read_rows(workspace, first.name)) == len(train), "what was in it can still be told"


def test_rows_are_looked_at_again_before_they_are_trained_on(workspace: Store) -> None:
    train, test = on_side("train"), on_side("held-out")
    pull(workspace, "0", *(review(name) for name in (*train, *test)))
    snapshot = freeze_snapshot(workspace, FEW, test_share=0.3)
    rows = {row.case_id: row for row in read_rows(workspace, snapshot.name)}
    check_apart(workspace, [rows[name] for name in train])
    for bad in (rows[test[0]], rows[train[0]].model_copy(update={"patient_key": rows[test[0]].patient_key})):
        with pytest.raises(HeldOutError, match=f"1 of 2 rows .*{bad.case_id}"):
            check_apart(workspace, [rows[train[1]], bad])
    mark(workspace, (train[3], test[0]))
    with pytest.raises(HeldOutError, match=train[3]):
        read_snapshot(workspace, snapshot.name, "train")
    assert len(read_snapshot(workspace, snapshot.name, "test")) == len(test)


def test_with_every_case_held_out_nothing_is_frozen_and_nobody_registered(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_table(CaseRecord.table([case("c00", "0" * 24)]), "cases", "0.parquet")
    pull(store, "0", review("c00"))
    with pytest.raises(NothingToDoError, match="1 held out"):
        freeze_snapshot(store, FEW, test_share=0.3)
    assert not list(store.list_objects("training"))
