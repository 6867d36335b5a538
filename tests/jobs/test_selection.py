"""Which cases a run drafts: nothing twice, nothing forgotten, every case of the workspace accounted for."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sonoloop.jobs.annotating.selection import Chooser, Selection, read_case_list
from sonoloop.jobs.annotating.units import UnitCase, write_units
from sonoloop.platform.errors import ConfigError, Reason
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord, ReviewRecord
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, write_sorted
from sonoloop.platform.workspace import S3Config, Store

START = datetime(2026, 1, 1, tzinfo=UTC)
ALL = tuple(f"case-{number:02d}" for number in range(20))


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    """Twenty cases, indexed an hour after each other, livers and breasts by turns; one was withdrawn."""
    store = Store(str(tmp_path))
    write_sorted(store, CASES, [case(number) for number in range(0, 20, 2)], "even.parquet")
    write_sorted(store, CASES, [case(number) for number in range(1, 20, 2)], "odd.parquet")
    write_sorted(store, CASES, [case(99, withdrawn=True)], "gone.parquet")
    return store


def case(number: int, *, inputs: str = "a", withdrawn: bool = False) -> CaseRecord:
    image = CaseImage(image_key=f"images/{number}.png", instance_id="i", frame_index=0, width=9, height=9)
    return CaseRecord(
        case_id=f"case-{number:02d}",
        patient_key="p",
        organ_hint="liver" if number % 2 else "breast",
        scanner=None,
        images=(image,),
        inputs_hash=inputs,
        withdrawn=withdrawn,
        indexed_at=START + timedelta(hours=number),
    )


def row(number: int, status: str = "draft", **more: Any) -> DraftRecord:
    values = {"run_id": "r", "model_version": "m/1", "prompt_version": "p", "config_hash": "c"}
    values |= {"attempts": 1, "inputs_hash": "a", "status": status}
    return DraftRecord(case_id=f"case-{number:02d}", **(values | more))


def drafted(workspace: Store, name: str, *rows: DraftRecord) -> None:
    write_sorted(workspace, DRAFTS, rows, f"{name}.parquet")


def chosen(
    workspace: Store, held_by: tuple[str, ...] = (), **wish: Any
) -> tuple[list[UnitCase], dict[str, int]]:
    """The cases, and where all went; the counts must add up whatever was asked for."""
    chooser = Chooser(workspace, "m/1", "p", Selection.of_options(**wish), held_by=held_by)
    cases = list(chooser.choose())
    counts = asdict(chooser.counts)
    unknown, total = counts.pop("unknown"), counts.pop("cases")
    assert total == sum(counts.values()) == 20
    assert counts["selected"] == len(cases)
    return cases, {name: count for name, count in counts.items() if count} | (
        {"unknown": unknown} if unknown else {}
    )


def ids(workspace: Store, **wish: Any) -> tuple[str, ...]:
    return tuple(case.case_id for case in chosen(workspace, **wish)[0])


def test_everything_without_a_draft_is_drafted_in_the_order_of_ids_and_nothing_withdrawn(
    workspace: Store,
) -> None:
    assert ids(workspace) == ALL
    drafted(workspace, "a", *(row(number) for number in range(5)))
    drafted(workspace, "b", row(5, model_version="m/2"), row(6, prompt_version="other"))
    cases, counts = chosen(workspace)
    assert tuple(case.case_id for case in cases) == ALL[5:]
    assert counts == {"selected": 15, "drafted": 5}
    assert cases[0].image_keys == ("images/5.png",)
    assert cases[0].organ_hint == "liver"


def test_what_was_rejected_waits_until_it_is_asked_for_and_is_then_all_that_is_taken(
    workspace: Store,
) -> None:
    drafted(
        workspace,
        "a",
        row(1, "rejected", reason=Reason.STORAGE, attempts=2),
        row(2, "rejected", reason=Reason.INVALID_OUTPUT),
        row(3, "rejected", reason=Reason.STORAGE),
        row(4),
    )
    drafted(workspace, "b", row(3, attempts=2))
    assert chosen(workspace)[1] == {"selected": 16, "drafted": 2, "rejected_before": 2}
    assert ids(workspace, retry_rejected=True) == ("case-01", "case-02")
    (again,), _ = chosen(workspace, retry_rejected=True, reasons=["storage"])
    assert (again.case_id, again.attempts) == ("case-01", 2)


def test_a_case_whose_images_changed_is_drafted_again(workspace: Store) -> None:
    drafted(workspace, "a", *(row(number) for number in range(20)))
    drafted(workspace, "b", row(7, "rejected", reason=Reason.UNREADABLE, attempts=2))
    assert ids(workspace) == ()
    changed = [
        case(number, inputs="b").model_copy(update={"indexed_at": START + timedelta(days=9)})
        for number in (6, 7)
    ]
    write_sorted(workspace, CASES, changed, "changed.parquet")
    cases, _ = chosen(workspace)
    assert [(case.case_id, case.attempts, case.inputs_hash) for case in cases] == [
        ("case-06", 1, "b"),
        ("case-07", 2, "b"),
    ]


def test_a_person_narrows_the_choice(workspace: Store) -> None:
    assert ids(workspace, since=START + timedelta(hours=15)) == ALL[15:]
    assert ids(workspace, organs=["liver"]) == ALL[1::2]
    assert ids(workspace, organs=["liver", "breast"], limit=3) == ALL[:3]
    found, counts = chosen(workspace, case_ids=frozenset(("case-03", "case-04", "nobody", "case-99")))
    assert [case.case_id for case in found] == ["case-03", "case-04"]
    assert counts == {"selected": 2, "not_asked": 18, "unknown": 2}


def test_a_sample_is_drawn_by_its_seed_among_what_may_be_drafted(workspace: Store) -> None:
    drafted(workspace, "a", *(row(number) for number in range(10)))
    one = ids(workspace, sample=4, seed=1)
    assert len(one) == 4
    assert set(one) <= set(ALL[10:])
    assert one == ids(workspace, sample=4, seed=1)
    assert len({ids(workspace, sample=4, seed=seed) for seed in range(8)}) > 1
    assert ids(workspace, sample=50) == ALL[10:]


def test_cases_of_a_run_under_way_are_left_to_it(workspace: Store) -> None:
    mine = [UnitCase(case_id, None, (), None, 0) for case_id in ALL[4:12]]
    write_units(workspace, "other", mine, cases_per_unit=3)
    cases, counts = chosen(workspace, held_by=("other",))
    assert tuple(case.case_id for case in cases) == (*ALL[:4], *ALL[12:])
    assert counts == {"selected": 12, "held": 8}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"organs": ["lever"]}, "--organ: .*'liver'"),
        ({"reasons": ["storage"]}, "--reason narrows --retry-rejected"),
        ({"retry_rejected": True, "reasons": ["crash"]}, "--reason: .*'storage'"),
    ],
)
def test_an_impossible_wish_is_refused_in_the_words_of_the_command(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Selection.of_options(**options)


def test_the_same_wish_has_the_same_name_and_no_other_has_it() -> None:
    wishes = [
        Selection(),
        Selection(limit=3),
        Selection(sample=3),
        Selection(sample=3, seed=1),
        Selection(retry_rejected=True),
        Selection(organs=("liver",)),
        Selection(since=START),
        Selection(case_ids=frozenset()),
        Selection(case_ids=frozenset(ALL)),
        Selection(unreviewed=True),
    ]
    assert len({wish.key for wish in wishes}) == len(wishes)
    assert Selection(case_ids=frozenset(ALL)).key == Selection(case_ids=frozenset(reversed(ALL))).key


def test_a_case_list_is_one_id_per_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\n\n  b \r\nc")
    assert read_case_list(str(tmp_path / "list.txt"), S3Config()) == {"a", "b", "c"}
    (tmp_path / "empty.txt").write_text("\n")
    for name, words in (("none.txt", "no case list at"), ("empty.txt", "is empty")):
        with pytest.raises(ConfigError, match=words):
            read_case_list(str(tmp_path / name), S3Config())


def test_what_people_have_reviewed_is_left_alone_where_that_is_asked(workspace: Store) -> None:
    review = ReviewRecord(
        review_id="1",
        annotation_id=1,
        task_id=1,
        case_id="case-03",
        model_version="m/0",
        reader="x",
        findings="f",
        impression="i",
        entities=None,
        boxes=(),
        origins={},
        lead_time_s=None,
        created_at=START,
        updated_at=START,
    )
    workspace.write_table(ReviewRecord.table([review]), "reviews", "a.parquet")
    assert ids(workspace) == ALL
    cases, counts = chosen(workspace, unreviewed=True)
    assert tuple(case.case_id for case in cases) == (*ALL[:3], *ALL[4:])
    assert counts == {"selected": 19, "reviewed": 1}
