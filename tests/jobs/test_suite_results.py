"""What a benchmark stores and shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sonoloop.jobs.evaluating.answering import check_counts
from sonoloop.jobs.evaluating.averages import Figures, average_of, group_rows
from sonoloop.jobs.evaluating.items import Answered, Item, rejected_item
from sonoloop.jobs.evaluating.results import SuiteResult, store_result
from sonoloop.jobs.output import show
from sonoloop.model.resampling import mean
from sonoloop.platform.errors import CountError, Reason, RejectedError
from sonoloop.platform.workspace import Store

GOOD = [Item(f"f#{at}", "t", "one" if at < 3 else "two", reference=str(at)) for at in range(4)]
BAD = rejected_item("f#4", "t", "", Reason.UNREADABLE, "no record")
FAILED = RejectedError(Reason.MODEL_FAILED, "RuntimeError")


def answers(said: str | None = "x") -> list[Answered]:
    """Four answers of two groups, the last one missing, and an item that could not be asked."""
    found = [Answered(item, item.item_hash, said) for item in GOOD[:3]]
    failed = Answered(GOOD[3], GOOD[3].item_hash, None, rejection=FAILED)
    return [*found, failed, Answered(BAD, BAD.item_hash, None, rejection=BAD.rejection)]


def figures(some: list[Answered]) -> Figures:
    return Figures.over({"length": mean([float(len(one.text)) for one in some])}, len(some))


def stored(store: Store, version: str, said: str) -> SuiteResult:
    given = answers(said)
    scored = [one for one in given if one.is_scored]
    rows, _ = group_rows("t", scored, figures, average="average")
    return store_result(
        store, "demo", version, given, rows, definitions={"length": "of answers"}, tokenizers=["letters"]
    )


def test_what_the_model_failed_on_counts_as_empty_and_what_could_not_be_asked_does_not(
    tmp_path: Path,
) -> None:
    result = stored(Store(str(tmp_path)), "m/a", "xy")
    assert (result.num_items, result.num_rejected) == (5, 1)
    assert result.rejected_by_reason == {"unreadable": 1}
    average, one, two = result.rows
    assert [(row.group, row.num_items, row.num_unanswered) for row in result.rows] == [
        ("average", 4, 1),
        ("one", 3, 0),
        ("two", 1, 1),
    ]
    values = [row.figures["length"] for row in (average, one, two)]
    assert [value and value.value for value in values] == pytest.approx([1.0, 2.0, 0.0])


def test_other_versions_on_the_same_data_stand_beside_and_are_not_stored_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path))
    first, second = stored(store, "m/first", "x"), stored(store, "m/second", "xyz")
    assert first.others == []
    assert first.data == second.data
    assert second.others == [first]
    show(second, title="evaluate", as_json=False)
    shown = capsys.readouterr().out
    assert "first" in shown
    assert "second" in shown
    assert shown.index("average") < shown.index("definitions")
    assert '"others"' not in second.model_dump_json()


def test_a_result_of_another_version_of_sonoloop_is_not_shown_beside_and_ends_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = stored(store, "m/first", "x")
    place = ("models", "m", "first", "evaluations", f"demo-{first.data}.json")
    store.write_bytes(b'{"suite": "demo", "scores": {}}', *place)
    assert stored(store, "m/second", "xyz").others == []


def test_an_item_that_is_lost_or_comes_twice_fails_the_run() -> None:
    check_counts(answers())
    with pytest.raises(CountError, match="f: expected items 0 to 3, each once"):
        check_counts(answers()[1:])
    with pytest.raises(CountError):
        check_counts([*answers(), answers()[-1]])


def test_the_average_of_figures_leaves_out_parts_without_them() -> None:
    one, other = mean([1.0, 0.0]), mean([0.5, 0.5])
    parts = [Figures.over({"a": one, "b": one}, 2), Figures.over({"a": other}, 2)]
    found = average_of(parts)
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    assert found.statistics["a"][0](weights)[:2].tolist() == [0.5, 0.75]
    assert np.isnan(found.statistics["a"][0](weights)[2])
    assert [num for _, num in found.statistics.values()] == [4, 2]
