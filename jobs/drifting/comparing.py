"""Whether a month differs from the months before it: by enough to matter, and by more than chance.

A difference raises an alarm where all of this holds:

1. both sides have ``min_values``;
2. it is as large as the configuration says: means by their standardised difference, mixes by their
   Jensen-Shannon distance (base 2, from 0 for the same mix to 1 for nothing in common);
3. it is larger than that of any reference month from the other ones, where there are at least three: months
   differ by themselves;
4. chance gives such a difference less often than ``false_alarms`` over all comparisons of the report
   (Bonferroni), by Welch's test of means or the chi-square test of a table, as scipy has them.

Sources: Cohen, Statistical Power Analysis, 1988, section 2.2 (d, with the pooled deviation); Lin, IEEE Trans
Inf Theory 1991;37:145-151; Welch, Biometrika 1947;34:28-35.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, ttest_ind_from_stats

from sonoloop.jobs.drifting.config import DriftConfig

MIN_MONTHS = 3
"""Reference months from which their own differences count."""
_LARGEST = 99.0
"""A shift where the values do not vary at all: JSON has no infinity."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared differences from the mean, of values that are not kept."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: NDArray[np.float64] | Sequence[float]) -> Moments:
        """Those of some values."""
        found = np.asarray(values, dtype=np.float64)
        if not found.size:
            return cls()
        mean = float(found.mean())
        return cls(int(found.size), mean, float(((found - mean) ** 2).sum()))

    def __add__(self, other: Moments) -> Moments:
        """Those of both together. Source: Chan et al., Am Stat 1983;37:242-247, eq. 2.1."""
        n = self.n + other.n
        if n == 0:
            return self
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.n * other.n / n
        return Moments(n, self.mean + apart * other.n / n, squares)

    @property
    def figures(self) -> tuple[float, float, int]:
        """Mean, standard deviation and count, of two values or more."""
        return self.mean, self.deviation, self.n

    @property
    def deviation(self) -> float:
        """The standard deviation, of two values or more."""
        return float(np.sqrt(self.squares / (self.n - 1)))


Mix = Counter[str]
Side = TypeVar("Side", Moments, Mix)


@dataclass(frozen=True)
class Difference:
    """A month against its reference.

    Attributes:
        n: Values of the month, and of the reference.
        shift: Standardised difference of means, or distance of mixes.
        usual: The largest such shift of a reference month from the others; ``None`` for fewer than three.
        chance: Probability of such a difference without any change.
    """

    n: tuple[int, int]
    shift: float
    usual: float | None
    chance: float


def difference(
    month: Side, before: Mapping[str, Side], config: DriftConfig, *, zero: Side
) -> Difference | None:
    """A month's values against those of the months before; ``None`` where a side has too few.

    Args:
        month: Of the month.
        before: Month to its values.
        config: How many values are enough.
        zero: No values.
    """
    reference = reduce(lambda one, other: one + other, before.values(), zero)
    n = (num_of(month), num_of(reference))
    if min(n) < config.min_values:
        return None
    enough = {name: side for name, side in before.items() if num_of(side) >= config.min_values}
    usual = None
    if len(enough) >= MIN_MONTHS:
        usual = max(abs(shift_of(side, _without(enough, name, zero))) for name, side in enough.items())
    return Difference(n, shift_of(month, reference), usual, _chance(month, reference))


def is_alarm(found: Difference, num_compared: int, threshold: float, config: DriftConfig) -> bool:
    """Whether a difference is one of the module's alarms.

    Args:
        found: The difference.
        num_compared: Comparisons of the whole report.
        threshold: Of the shift.
        config: The share of false alarms.
    """
    large = abs(found.shift) >= threshold and (found.usual is None or abs(found.shift) > found.usual)
    return large and found.chance < config.false_alarms / num_compared


def num_of(side: Moments | Mix) -> int:
    """How many values a side has."""
    return side.n if isinstance(side, Moments) else side.total()


def shift_of(side: Moments | Mix, reference: Moments | Mix) -> float:
    """The standardised difference of two means, or the distance of two mixes."""
    if isinstance(side, Moments) and isinstance(reference, Moments):
        pooled = np.sqrt((side.squares + reference.squares) / (side.n + reference.n - 2))
        apart = side.mean - reference.mean
        if pooled * _LARGEST <= abs(apart):
            return float(np.copysign(_LARGEST, apart)) if apart else 0.0
        return float(apart / pooled)
    assert isinstance(side, Counter)
    assert isinstance(reference, Counter)
    table = _table(side, reference)
    distance = jensenshannon(table[0], table[1], base=2)  # it makes shares of the counts
    return 0.0 if np.isnan(distance) else float(distance)  # the root of a rounding error below 0


def _chance(side: Moments | Mix, reference: Moments | Mix) -> float:
    if isinstance(side, Moments) and isinstance(reference, Moments):
        if not side.squares and not reference.squares:
            return float(side.mean == reference.mean)
        sides = (*side.figures, *reference.figures)
        return float(ttest_ind_from_stats(*sides, equal_var=False).pvalue)
    assert isinstance(side, Counter)
    assert isinstance(reference, Counter)
    table = _table(side, reference)
    return 1.0 if table.shape[1] < 2 else float(chi2_contingency(table).pvalue)


def _table(side: Mix, reference: Mix) -> NDArray[np.int64]:
    words = sorted(word for word in side.keys() | reference.keys() if side[word] or reference[word])
    return np.array([[counts[word] for word in words] for counts in (side, reference)], dtype=np.int64)


def _without(sides: Mapping[str, Side], name: str, zero: Side) -> Side:
    add: Callable[[Side, Side], Side] = lambda one, other: one + other  # noqa: E731 - mypy knows no operator
    return reduce(add, (side for other, side in sides.items() if other != name), zero)
