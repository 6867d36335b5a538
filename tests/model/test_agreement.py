"""Figures of agreement, against published examples and what a hand can compute."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from sonoloop.model.agreement import (
    agreeing_share,
    box_agreement,
    cohen_kappa,
    fleiss_kappa,
    graded_field,
    grades,
    krippendorff_alpha,
    text_distance,
)
from sonoloop.model.metrics import iou
from sonoloop.platform.lexicon import LesionBox

# Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011: four observers, twelve units, "-" missing.
FOUR_OBSERVERS = ("123321412---", "1233224125-3", "-3332342251-", "12332441251-")
UNITS = [[value for value in unit if value != "-"] for unit in zip(*FOUR_OBSERVERS, strict=True)]


def test_cohens_kappa_of_the_textbook_table() -> None:
    # 50 cases: 20 both yes, 5 and 10 apart, 15 both no: (0.7 - 0.5) / (1 - 0.5)
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    found = cohen_kappa(pairs)
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(0.4), 50)


def test_fleiss_kappa_of_fourteen_raters_and_ten_subjects() -> None:
    # https://en.wikipedia.org/wiki/Fleiss%27_kappa, worked example: 0.210
    counts = """0 0 0 0 14, 0 2 6 4 2, 0 0 3 5 6, 0 3 9 2 0, 2 2 8 1 1,
                7 7 0 0 0, 3 2 6 3 0, 2 5 3 2 2, 6 5 2 1 0, 0 2 2 3 7"""
    rows = [[int(number) for number in row.split()] for row in counts.split(",")]
    readings = [[str(value) for value, num in enumerate(row) for _ in range(num)] for row in rows]
    found = fleiss_kappa(readings)
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(0.210, abs=0.0005), 10)


@pytest.mark.parametrize(("order", "published"), [((), 0.743), (tuple("12345"), 0.815)])
def test_krippendorffs_alpha_of_his_own_example(order: tuple[str, ...], published: float) -> None:
    found = krippendorff_alpha(UNITS, order)
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(published, abs=0.0005), 11)  # unit 12 has one reading


@pytest.mark.parametrize("order", [(), tuple("12345")])
def test_alpha_is_what_its_definition_says(order: tuple[str, ...]) -> None:
    found = krippendorff_alpha(UNITS, order)
    assert found is not None
    assert found.value == pytest.approx(_alpha_by_definition(UNITS, order))


def _alpha_by_definition(units: list[list[str]], order: tuple[str, ...]) -> float:
    """1 - observed / expected disagreement, pair by pair, with the distance summed as it is printed."""
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]

    def distance(one: str, other: str) -> float:
        if not order:
            return float(one != other)
        low, high = sorted((order.index(one), order.index(other)))
        ends = (pooled.count(order[low]) + pooled.count(order[high])) / 2
        return float((sum(pooled.count(order[g]) for g in range(low, high + 1)) - ends) ** 2)

    observed = sum(
        2 * sum(distance(a, b) for a, b in combinations(unit, 2)) / (len(unit) - 1) for unit in units
    )
    expected = 2 * sum(distance(a, b) for a, b in combinations(pooled, 2)) / (len(pooled) - 1)
    return 1 - observed / expected


def test_a_value_without_a_grade_counts_as_not_said_where_there_is_an_order() -> None:
    with_gaps = [*UNITS, ["not assessed", "1"], ["not assessed", "not assessed"]]
    order = tuple("12345")
    assert krippendorff_alpha(with_gaps, order) == krippendorff_alpha(UNITS, order)
    assert krippendorff_alpha(with_gaps) != krippendorff_alpha(UNITS)


def test_where_all_said_the_same_throughout_chance_agrees_too_and_there_is_no_figure() -> None:
    assert cohen_kappa([("a", "a")] * 5) is None
    assert fleiss_kappa([["a", "a", "a"]] * 5) is None
    assert krippendorff_alpha([["a", "a"], ["b"]]) is None
    assert fleiss_kappa([["a"], ["b"]]) is None
    assert cohen_kappa([]) is krippendorff_alpha([]) is None


def test_fleiss_takes_the_cases_read_by_as_many_as_most_are() -> None:
    twice = [["a", "a"], ["b", "b"], ["a", "b"]]
    assert fleiss_kappa([*twice, ["a", "b", "b"], ["b"]]) == fleiss_kappa(twice)


def test_the_share_of_agreeing_pairs() -> None:
    assert agreeing_share(["a", "a", "b"]) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="two readers"):
        agreeing_share(["a"])


def _box(x: float, index: int = 0) -> LesionBox:
    return LesionBox(image_index=index, x=x, y=0.0, width=0.2, height=0.2)


def test_boxes_are_paired_so_that_they_overlap_the_most_and_lone_ones_count_as_nothing() -> None:
    third = 1 / 3  # two boxes of width 0.2 that are 0.1 apart
    assert box_agreement([_box(0.0)], [_box(0.0)]) == pytest.approx(1)
    assert box_agreement([_box(0.0)], [_box(0.1)]) == pytest.approx(third)
    assert box_agreement([_box(0.0), _box(0.1)], [_box(0.1), _box(0.0)]) == pytest.approx(1)
    assert box_agreement([_box(0.0), _box(0.5)], [_box(0.1)]) == pytest.approx(third / 2)
    assert box_agreement([_box(0.0)], [_box(0.0, index=1)]) == 0
    assert box_agreement([_box(0.0)], []) == 0
    assert box_agreement([], []) is None


def test_pairing_is_the_best_of_all_pairings() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        one, other = ([_box(float(x)) for x in rng.uniform(0, 0.8, 3)] for _ in range(2))
        best = max(
            ([iou(a, b) for a, b in zip(one, order, strict=True)] for order in permutations(other)), key=sum
        )
        expected = sum(best) / (6 - sum(value > 0 for value in best))
        assert box_agreement(one, other) == pytest.approx(expected)


def test_words_changed_of_the_longer_text() -> None:
    assert text_distance("a b c d", "a x c") == pytest.approx(0.5)
    assert text_distance("", "") == 0


def test_grades_are_known_for_graded_fields_only() -> None:
    assert grades("breast", "bi_rads") == ("2", "3", "4A", "4B", "4C", "5", "6")
    assert grades("ovary", "papillary_projections")[0] == "0"
    assert graded_field("heart.mitral_regurgitation") == ("none or trace", "mild", "moderate", "severe")
    assert graded_field("breast.shape") == graded_field("organ") == ()
    assert grades("vessel", "stenosis")[::5] == ("normal", "total occlusion")
