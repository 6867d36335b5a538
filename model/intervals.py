"""Figures with how sure they are: intervals of 95 %, the same for the same values.

Percentile bootstrap, from `scipy.stats.bootstrap`. Source: Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13. A case is the unit that is drawn: give one value for each. A share of yes and no
has Wilson's score interval, from `scipy.stats.binomtest`: the bootstrap gives none where all say the same.
Source: Wilson, J Am Stat Assoc 1927;22:209-212.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import binomtest, bootstrap

RESAMPLES = 1000
_BATCH = 50  # of them at once: 50 draws of 100,000 cases are 40 MB
_SEED = 0
Statistic = Literal["mean", "median"]


class Estimate(BaseModel):
    """A figure over ``n`` values; no interval for fewer than two."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float
    low: float | None = Field(default=None, description="lower end of the interval")
    high: float | None = Field(default=None, description="upper end of the interval")
    n: int = Field(description="values it is made of")

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return _short(self.value)
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"


def estimate(values: Sequence[float], statistic: Statistic = "mean") -> Estimate | None:
    """Mean or median of one value for each case; ``None`` without any."""
    if not values:
        return None
    function = _function(statistic)
    value = float(function(np.asarray(values), axis=-1))
    if statistic == "mean" and set(values) <= {0, 1}:
        low, high = _wilson(values)
    else:
        low, high = _interval((values,), function)
    return Estimate(value=value, low=low, high=high, n=len(values))


def difference(
    one: Sequence[float], other: Sequence[float], statistic: Statistic = "mean"
) -> Estimate | None:
    """How much larger the figure is over the first group of cases; ``None`` where a group is empty.

    ``n`` is the size of the smaller group.
    """
    if not one or not other:
        return None
    function = _function(statistic)

    def between(a: Any, b: Any, axis: int) -> Any:
        return function(a, axis=axis) - function(b, axis=axis)

    value = float(between(np.asarray(one), np.asarray(other), -1))
    low, high = _interval((one, other), between)
    return Estimate(value=value, low=low, high=high, n=min(len(one), len(other)))


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _function(statistic: Statistic) -> Callable[..., Any]:
    return np.median if statistic == "median" else np.mean


def _wilson(values: Sequence[float]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    found = binomtest(int(sum(values)), len(values)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _interval(
    groups: tuple[Sequence[float], ...], function: Callable[..., Any]
) -> tuple[float | None, float | None]:
    if min(map(len, groups)) < 2:
        return None, None
    found = bootstrap(
        groups,
        function,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)
