"""How sure a figure over cases is: the bootstrap over patients, for figures that are no plain mean.

Cases of one patient resemble each other, so patients are drawn with replacement, each with all its cases. A
figure is written as a function of how often each case was drawn, so that all draws are a few products of
matrices and two models can be compared on the same draws (the paired bootstrap: give the difference of both
figures as one function).

An interval is the expanded percentile interval: the quantiles of the draws, taken further out by what the
plain ones lack for few patients. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapters 8 and 13; Hesterberg, The American Statistician 2015;69:371-386, section 3.3, for the expansion.

Shape letters: R draws, N cases, G patients, C classes, B bins
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from sonoloop.model.calibration import NUM_BINS
from sonoloop.model.intervals import Estimate

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From weights ``(R, N)``, how often each case counts, to the figure ``(R,)``; NaN where it is undefined."""

RESAMPLES = 2000
CONFIDENCE = 0.95
_SEED = 0
_WEIGHTS_AT_ONCE = 5_000_000
"""Draws times cases held at once: 40 MB."""


def draw(groups: Sequence[str], *statistics: Statistic, num: int = RESAMPLES) -> Array:
    """Figures over resampled patients, all of them on the same draws.

    Args:
        groups: Patient of each case, at least one.
        statistics: The figures.
        num: How many draws.

    Returns:
        ``(len(statistics), num)``; the same for the same arguments.
    """
    _, index_N = np.unique(np.asarray(groups), return_inverse=True)
    num_groups = int(index_N.max()) + 1
    rng = np.random.default_rng(_SEED)
    found = []
    for start in range(0, num, at_once := max(1, _WEIGHTS_AT_ONCE // len(index_N))):
        size = min(at_once, num - start)
        drawn_RG = rng.integers(num_groups, size=(size, num_groups))
        drawn_RG += num_groups * np.arange(size)[:, None]
        counts_RG = np.bincount(drawn_RG.ravel(), minlength=size * num_groups).reshape(size, num_groups)
        weights_RN = counts_RG.astype(np.float64)[:, index_N]
        found.append([statistic(weights_RN) for statistic in statistics])
    return np.concatenate(found, axis=1)


def values_of(groups: Sequence[str], *statistics: Statistic) -> list[float]:
    """The figures over the cases as they are; NaN where one is undefined."""
    ones_RN = np.ones((1, len(groups)))
    return [float(statistic(ones_RN)[0]) for statistic in statistics]


def estimates_over(
    groups: Sequence[str], statistics: Mapping[str, tuple[Statistic, int]]
) -> dict[str, Estimate | None]:
    """Figures with their intervals of 95 %; ``None`` where one is undefined.

    Args:
        groups: Patient of each case, at least one; one patient alone gives no interval.
        statistics: By name: the figure, and the number of values that it is made of.
    """
    num_groups = len(set(groups))
    values = values_of(groups, *(statistic for statistic, _ in statistics.values()))
    draws = draw(groups, *(statistic for statistic, _ in statistics.values())) if num_groups > 1 else values
    found: dict[str, Estimate | None] = {}
    for (name, (_, n)), value, own in zip(statistics.items(), values, draws, strict=True):
        ends = interval(own, num_groups=num_groups) if num_groups > 1 else (None, None)
        estimate = Estimate(value=value, low=ends[0], high=ends[1], n=n)
        found[name] = None if np.isnan(value) else estimate
    return found


def interval(
    draws: Array, *, num_groups: int, confidence: float = CONFIDENCE
) -> tuple[float | None, float | None]:
    """Both ends of the expanded percentile interval; none where the figure was undefined in every draw."""
    if np.isnan(draws).all():
        return None, None
    tail = (1 - confidence) / 2
    return bound(draws, tail, num_groups=num_groups), bound(draws, 1 - tail, num_groups=num_groups)


def bound(draws: Array, level: float, *, num_groups: int) -> float:
    """The expanded quantile of draws: below it the true figure lies with probability ``level``.

    Args:
        draws: Of `draw`; those where the figure is undefined do not count.
        level: Under 0.5 for a lower bound, above for an upper one.
        num_groups: Patients that were drawn from, at least two.
    """
    expanded = norm.cdf(sqrt(num_groups / (num_groups - 1)) * t.ppf(level, num_groups - 1))
    return float(np.nanquantile(draws, expanded))


def difference(one: Statistic, other: Statistic) -> Statistic:
    """How much larger the first figure is, on the same draws."""
    return lambda weights_RN: one(weights_RN) - other(weights_RN)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Statistic:
    """Sum over cases of the one by the sum of the other: a mean of values of which a case has several."""
    above_N, below_N = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    return lambda weights_RN: _divided(weights_RN @ above_N, weights_RN @ below_N)


def mean(values: Sequence[float]) -> Statistic:
    """The mean of one value for each case."""
    return ratio(values, np.ones(len(values)).tolist())


def bleu_1(matched: Sequence[int], said: Sequence[int], wanted: Sequence[int]) -> Statistic:
    """Corpus BLEU over single words with the brevity penalty. Source: Papineni et al., ACL 2002, section 2.3.

    Args:
        matched: Words of each draft that its reference has too, each at most as often as there.
        said: Words of each draft.
        wanted: Words of each reference.
    """
    columns_N3 = np.asarray([matched, said, wanted], np.float64).T

    def figure(weights_RN: Array) -> Array:
        hits, length, full = (weights_RN @ columns_N3).T
        brevity: Array = np.exp(np.minimum(0, 1 - _divided(full, length, otherwise=np.inf)))
        return _divided(hits, length, otherwise=0) * brevity

    return figure


def calibration_error(probabilities: Sequence[Sequence[float]], kept: Sequence[Sequence[bool]]) -> Statistic:
    """`sonoloop.model.calibration.expected_calibration_error` of all values of the drawn cases.

    Few values make it larger than it is, in each draw as well: compare like with like.

    Args:
        probabilities: Of each case's values.
        kept: Whether each of them was right.
    """
    gaps_NB, nums_N = np.zeros((len(kept), NUM_BINS)), np.zeros(len(kept))
    for case, (p, right) in enumerate(zip(probabilities, kept, strict=True)):
        each = np.asarray(p, np.float64)
        bins = np.clip(np.ceil(each * NUM_BINS) - 1, 0, NUM_BINS - 1).astype(np.int64)
        gaps_NB[case] = np.bincount(bins, weights=each - np.asarray(right, np.float64), minlength=NUM_BINS)
        nums_N[case] = len(each)
    return lambda weights_RN: _divided(np.abs(weights_RN @ gaps_NB).sum(1), weights_RN @ nums_N)


def _divided(above: Array, below: Array, *, otherwise: float = np.nan) -> Array:
    """The quotient; ``otherwise`` where nothing stands below the line."""
    return np.divide(above, below, out=np.full_like(above, otherwise), where=below > 0)
