"""Intervals that hold the truth as often as they say, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from sonoloop.model.intervals import difference, estimate


def test_an_estimate_is_the_mean_or_the_median_with_an_interval_around_it() -> None:
    values = [1.0, 2.0, 3.0, 10.0]
    mean, median = estimate(values), estimate(values, "median")
    assert mean is not None
    assert median is not None
    assert (mean.value, median.value, mean.n) == (4.0, 2.5, 4)
    assert mean.low is not None
    assert mean.high is not None
    assert 1.0 <= mean.low < 4.0 < mean.high <= 10.0
    assert estimate(values) == mean


def test_one_value_has_no_interval_and_none_has_no_estimate() -> None:
    one = estimate([0.5])
    assert one is not None
    assert (one.value, one.low, one.high, str(one)) == (0.5, None, None, "0.50")
    assert estimate([]) is None
    assert difference([], [1.0]) is None


def test_a_share_of_yes_is_unsure_also_where_all_said_yes() -> None:
    # Wilson, 10 of 10: (10 + z^2 / 2) / (10 + z^2) minus z^2 / 2 / (10 + z^2), z = 1.96
    found = estimate([1.0] * 10)
    assert found is not None
    assert (found.value, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(10 / (10 + 1.96**2), abs=1e-4)


def test_an_interval_of_the_mean_is_the_one_of_the_normal_law_for_many_values() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = estimate(values.tolist())
    assert found is not None
    half = 1.96 * values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_a_difference_tells_how_much_larger_the_first_group_is() -> None:
    found = difference([11.0, 12.0, 13.0], [1.0, 2.0, 3.0, 4.0], "median")
    assert found is not None
    assert (found.value, found.n) == (9.5, 3)
    assert found.low is not None
    assert found.low > 0
