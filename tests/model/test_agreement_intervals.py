"""Intervals of the coefficients, against the library on the cases as they are and on resampled ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sonoloop.model import agreement_intervals
from sonoloop.model.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha
from sonoloop.model.intervals import Estimate

GRADES = ("a", "b", "c")
Said = list[tuple[str, ...]]
Coefficient = Callable[[Said], Estimate | None]
COEFFICIENTS: dict[str, Coefficient] = {
    "cohen": lambda said: cohen_kappa([(one, other) for one, other in said]),
    "fleiss": fleiss_kappa,
    "alpha": krippendorff_alpha,
    "ordinal alpha": lambda said: krippendorff_alpha(said, GRADES),
}


def _readings(num_cases: int, *, seed: int = 1, agree: float = 0.6) -> Said:
    """Two readers who say what is true with this probability, and else anything."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, num_cases)
    return [tuple(GRADES[t if rng.random() < agree else rng.integers(0, 3)] for _ in range(2)) for t in truth]


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_an_interval_is_what_the_library_says_of_resampled_cases(name: str) -> None:
    coefficient, said = COEFFICIENTS[name], _readings(60)
    rng = np.random.default_rng(5)
    drawn = [coefficient([said[i] for i in rng.integers(0, 60, 60)]) for _ in range(400)]
    low, high = np.percentile([one.value for one in drawn if one is not None], [2.5, 97.5])
    found = coefficient(said)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low, abs=0.04), pytest.approx(high, abs=0.04))


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_the_sums_say_of_the_cases_as_they_are_what_the_library_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_they_are(times: Sequence[int], of: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        (value,) = of(np.array([times], dtype=np.float64))
        return float(value), float(value)

    monkeypatch.setattr(agreement_intervals, "_interval", as_they_are)
    found = COEFFICIENTS[name](_readings(40, seed=3))
    assert found is not None
    assert found.low == pytest.approx(found.value, abs=1e-12)


def test_cases_read_by_unequal_numbers_of_readers_have_an_interval_of_alpha() -> None:
    said = [*_readings(30), ("a", "a", "b"), ("c", "c", "c", "b")]
    found = krippendorff_alpha(said)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_more_cases_make_it_narrower_and_the_same_cases_the_same() -> None:
    few, many = (krippendorff_alpha(_readings(num)) for num in (20, 2000))
    assert _width(many) < _width(few) / 5
    assert krippendorff_alpha(_readings(20)) == few


def _width(found: Estimate | None) -> float:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_where_most_resamples_have_no_coefficient_there_is_no_interval() -> None:
    lone = [("a", "a")] * 2 + [("b", "b")]
    assert _width(fleiss_kappa(lone)) == 0  # two thirds of the resamples hold both
    mixed = cohen_kappa([("a", "b")])
    assert mixed is not None
    assert (mixed.n, mixed.low) == (1, None)
