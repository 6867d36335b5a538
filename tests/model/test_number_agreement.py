"""Agreement on numbers, against the figures that were published with the methods."""

from __future__ import annotations

import pytest

from sonoloop.model.number_agreement import icc_2_1, paired_numbers, shared_numbers

# Bland and Altman, Lancet 1986, table 1, first measurements: peak expiratory flow, l/min, two meters.
LARGE = (494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427)
SMALL = (512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451)
# Shrout and Fleiss, Psychol Bull 1979, table 2: six targets, four judges.
JUDGED = ((9, 2, 5, 8), (6, 1, 3, 2), (8, 4, 6, 8), (7, 1, 2, 6), (10, 5, 6, 9), (6, 2, 4, 7))


def test_the_limits_of_agreement_are_those_of_bland_and_altman() -> None:
    found = paired_numbers(list(zip(SMALL, LARGE, strict=True)))
    assert found.limits is not None
    assert found.bias.value == pytest.approx(-2.1, abs=0.05)
    # printed: -79.7 and 75.5, with two standard deviations of 38.8; ours are 1.96 of them
    assert found.limits == (
        pytest.approx(-2.1 - 1.96 * 38.8, abs=0.1),
        pytest.approx(-2.1 + 1.96 * 38.8, abs=0.1),
    )
    assert found.absolute_difference.n == 17


def test_the_intraclass_correlation_is_that_of_shrout_and_fleiss() -> None:
    assert icc_2_1(JUDGED) == pytest.approx(0.29, abs=0.005)


def test_a_reader_who_always_measures_more_lowers_it_and_shows_as_bias() -> None:
    pairs = [(size, size + 5.0) for size in (10.0, 20.0, 30.0, 40.0)]
    found = paired_numbers(pairs)
    assert (found.bias.value, found.limits) == (5, (5, 5))
    # mean squares: cases 1000 / 3, readers 50, nothing left over
    assert found.icc == pytest.approx((1000 / 3) / (1000 / 3 + 2 * 50 / 4))
    assert icc_2_1([(one, one) for one, _ in pairs]) == 1


def test_of_one_case_there_is_a_difference_and_nothing_more() -> None:
    found = paired_numbers([(10, 13)])
    assert found.absolute_difference.value == 3
    assert (found.limits, found.icc, found.bias.low) == (None, None, None)
    assert icc_2_1([(7, 7), (7, 7)]) is None


def test_any_readers_of_a_case_are_taken_in_pairs() -> None:
    found = shared_numbers([(10, 12), (20, 20, 23)])
    assert found.absolute_difference.value == pytest.approx((2 + 2) / 2)
    # within-case variances 2 and 3
    assert found.reproducibility == pytest.approx(1.96 * (2 * 2.5) ** 0.5)


def test_two_readers_of_each_case_give_the_usual_limits_about_no_bias() -> None:
    pairs = [(10, 13), (20, 17), (30, 33), (41, 38)]
    spread = shared_numbers(pairs).reproducibility
    assert spread == pytest.approx(1.96 * 3)


@pytest.mark.parametrize("readings", [[], [(1.0, 2.0), (3.0,)]])
def test_cases_that_nobody_or_one_reader_measured_are_refused(readings: list[tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="two readers"):
        shared_numbers(readings)


def test_a_pair_without_a_case_is_refused() -> None:
    with pytest.raises(ValueError, match="both readers"):
        paired_numbers([])
