"""Marks of near-duplicates, and keeping to one of each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sonoloop.platform.duplicates import DuplicateRecord, one_of_each, read_groups, write_duplicates
from sonoloop.platform.workspace import Store

GROUPS = {"a": "a", "b": "a", "c": "a", "x": "x", "y": "x"}


@pytest.mark.parametrize(
    ("order", "taken", "kept"),
    [
        ("abcdxy", (), "adx"),
        ("ycbdax", (), "ycd"),
        ("abcdxy", ("z", None), "adx"),
        ("bcdxy", ("a",), "dx"),
        ("bdxy", ("c", "y"), "d"),
        ("", ("a",), ""),
    ],
)
def test_of_each_group_the_first_in_order_is_kept_unless_one_is_taken(
    order: str, taken: tuple[str | None, ...], kept: str
) -> None:
    assert "".join(one_of_each(order, GROUPS, taken)) == kept


def test_without_marks_every_case_is_kept(tmp_path: Path) -> None:
    groups = read_groups(Store(str(tmp_path)))
    assert groups == {}
    assert one_of_each("abc", groups, "z") == ["a", "b", "c"]


def test_new_marks_replace_the_old_ones(tmp_path: Path) -> None:
    store, now = Store(str(tmp_path)), datetime(2026, 1, 1, tzinfo=UTC)
    for group in ("ab", "cd"):
        marks = [DuplicateRecord(case_id=c, group_key=group[0], distance=0, marked_at=now) for c in group]
        write_duplicates(store, marks)
    assert read_groups(store) == {"c": "c", "d": "c"}
    write_duplicates(store, [])
    assert read_groups(store) == {}
