"""When a month counts as having moved: seldom where nothing did, always where something did."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from sonoloop.jobs.drifting.comparing import Moments, difference, shift_of
from sonoloop.jobs.drifting.config import DriftConfig
from sonoloop.jobs.drifting.gathering import Gathered, Series
from sonoloop.jobs.drifting.report import DriftReport, compare

NOW = datetime(2026, 7, 1, tzinfo=UTC)
MONTHS = tuple(f"2026-0{number}" for number in range(1, 8))
SCANNERS, MEANS, WORDS = ("A 1", "B 2", "C 3", "D 4"), ("confidence", "brightness", "corrections"), (2, 4, 7)


def simulated(
    seed: int, *, n: int = 100, moved: str = "", by: float = 0.0, wobble: float = 0.0
) -> DriftReport:
    """A report over drawn values: four scanners, three means and three mixes each, seven months.

    Args:
        seed: Of the draws.
        n: Values of each month.
        moved: The series of scanner ``A 1`` whose last month is shifted.
        by: How far: standard deviations, or share of a mix that goes to its first word.
        wobble: Standard deviation between the months' own means.
    """
    draw, gathered = np.random.default_rng(seed), Gathered()
    for scanner in SCANNERS:
        for month in MONTHS:
            last = scanner == SCANNERS[0] and month == MONTHS[-1]
            for what in MEANS:
                centre = wobble * draw.normal() + (by if last and what == moved else 0)
                gathered.add_mean(Series(what, scanner), month, Moments.of(draw.normal(centre, 1, n)))
            for size in WORDS:
                share = np.full(size, 1 / size)
                if last and moved == f"mix {size}":
                    share = (1 - by) * share + by * np.eye(size)[0]
                for word, number in enumerate(draw.multinomial(n, share)):
                    gathered.add_mix(Series(f"mix {size}", scanner), month, str(word), int(number))
    return compare(gathered, MONTHS[-1], MONTHS[:-1], config(), now=NOW)


def config(**changes: float) -> DriftConfig:
    return DriftConfig.model_validate(changes)


def test_moments_put_together_are_those_of_all_values() -> None:
    values = np.random.default_rng(0).normal(5, 2, 1000)
    parts = [Moments.of(part) for part in np.split(values, [0, 10, 500])]
    whole = sum(parts, Moments())
    assert whole.n == 1000
    assert whole.mean == pytest.approx(values.mean(), rel=1e-12)
    assert whole.deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert Moments() + Moments() == Moments()


def test_a_shift_of_means_is_in_standard_deviations_and_one_of_mixes_a_distance() -> None:
    draw = np.random.default_rng(1)
    low, high = Moments.of(draw.normal(0, 2, 50_000)), Moments.of(draw.normal(1, 2, 50_000))
    assert shift_of(high, low) == pytest.approx(0.5, abs=0.02)
    assert shift_of(low, high) == -shift_of(high, low)
    assert shift_of(Counter(a=3, b=1), Counter(a=30, b=10)) == pytest.approx(0, abs=1e-7)
    assert shift_of(Counter(a=3), Counter(b=3)) == pytest.approx(1)
    assert shift_of(Counter(a=1), Counter(a=9)) == 0
    assert abs(shift_of(Moments.of([1.0] * 60), Moments.of([2.0] * 60))) == 99


def test_where_nothing_changes_alarms_are_rare() -> None:
    reports = [simulated(seed) for seed in range(200)]
    assert min(len(report.compared) for report in reports) == 4 * 6
    assert sum(bool(report.alarms) for report in reports) == 0


def test_chance_alone_is_bounded_for_the_whole_report_even_if_any_shift_counted() -> None:
    alarms = 0
    for seed in range(200):
        report = simulated(seed)
        alarms += min(one.chance for one in report.compared) < report.config.false_alarms / len(
            report.compared
        )
    assert 0 < alarms <= 8  # 2 are expected


@pytest.mark.parametrize(
    ("moved", "by"), [("confidence", -0.8), ("corrections", 0.8), ("mix 2", 0.8), ("mix 7", 0.4)]
)
def test_what_moved_raises_an_alarm_and_nothing_else_does(moved: str, by: float) -> None:
    for seed in range(10):
        (alarm,) = simulated(seed, moved=moved, by=by).alarms
        assert (alarm.what, alarm.scanner) == (moved, SCANNERS[0])
        assert alarm.shift * by > 0 or alarm.kind == "mix"


def test_a_shift_too_small_to_matter_raises_none_however_sure_it_is() -> None:
    report = simulated(0, n=20_000, moved="confidence", by=0.2)
    (moved,) = (one for one in report.compared if one.what == "confidence" and one.scanner == SCANNERS[0])
    assert moved.chance < 1e-9
    assert not report.alarms


def test_months_that_always_differ_raise_none_until_one_differs_more() -> None:
    quiet = [simulated(seed, n=5000, wobble=0.6) for seed in range(20)]
    large = [
        one for report in quiet for one in report.compared if one.kind == "mean" and abs(one.shift) > 0.5
    ]
    assert len(large) > 20  # certain by the tests, and large enough to count
    assert sum(one.alarm for one in large) < len(large) / 2
    assert simulated(0, n=5000, wobble=0.6, moved="confidence", by=5).alarms[0].what == "confidence"


def test_too_few_values_on_a_side_are_not_compared() -> None:
    few, many = Moments.of(np.zeros(49)), Moments.of(np.zeros(50))
    assert difference(few, {"m": many}, config(), zero=Moments()) is None
    assert difference(many, {"m": few}, config(), zero=Moments()) is None
    assert difference(many, {}, config(), zero=Moments()) is None
    found = difference(
        many, {"m": Moments.of(np.zeros(25)), "n": Moments.of(np.zeros(25))}, config(), zero=Moments()
    )
    assert found is not None
    assert (found.n, found.shift, found.usual, found.chance) == ((50, 50), 0, None, 1)
    assert len(simulated(0, n=30).compared) == 0
    assert simulated(0, n=30).too_few == 4 * 6
