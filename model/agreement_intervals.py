"""How sure a coefficient of agreement is: 95 %, percentile bootstrap over cases, the same for the same cases.

Each coefficient depends on its cases through sums only, so drawing cases with replacement is drawing how
often each kind of case occurs (a multinomial draw), and the number of cases costs next to nothing. The
figures themselves are the library's, see `agreement`; tests hold the sums below against it.

Resamples in which everybody says the same have no coefficient and are left out; where they are more than
half, there is no interval. Where all readers agree on every case the interval is a point, however few cases
there are: read it together with ``n``. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sonoloop.model.intervals import RESAMPLES, Estimate

# Shape letters: R resamples, P kinds of cases, K values, M and N values of the first and the second reader
Floats = NDArray[np.float64]
Interval = tuple[float, float] | None
_SEED = 0


def with_interval(value: float, interval: Interval, n: int) -> Estimate:
    """A figure over ``n`` cases with the interval that it has, if any."""
    low, high = interval or (None, None)
    return Estimate(value=value, low=low, high=high, n=n)


def cohen_interval(pairs: Sequence[tuple[str, str]]) -> Interval:
    """Of Cohen's kappa; a pair is what two readers said of one case."""
    times = Counter(pairs)
    kinds = list(times)
    values = sorted({value for pair in kinds for value in pair})
    first_PK, second_PK = (_one_hot([pair[place] for pair in kinds], values) for place in (0, 1))
    same_P = np.array([float(one == other) for one, other in kinds])

    def kappa(share_RP: Floats) -> Floats:
        expected_R = ((share_RP @ first_PK) * (share_RP @ second_PK)).sum(axis=1)
        return _above_chance(share_RP @ same_P, expected_R)

    return _interval(list(times.values()), lambda draws_RP: kappa(draws_RP / len(pairs)))


def fleiss_interval(readings: Sequence[Sequence[str]]) -> Interval:
    """Of Fleiss' kappa; each case was read by as many."""
    kinds_PK, times, _ = _kinds(readings)
    size = kinds_PK.sum(axis=1)[0]
    agreement_P = (kinds_PK * (kinds_PK - 1)).sum(axis=1) / (size * (size - 1))

    def kappa(share_RP: Floats) -> Floats:
        return _above_chance(share_RP @ agreement_P, ((share_RP @ kinds_PK / size) ** 2).sum(axis=1))

    return _interval(times, lambda draws_RP: kappa(draws_RP / len(readings)))


def alpha_interval(readings: Sequence[Sequence[str]], order: Sequence[str] = ()) -> Interval:
    """Of Krippendorff's alpha; each case was read twice or more, and an order holds all values."""
    kinds_PK, times, values = _kinds(readings, order)
    sizes_P = kinds_PK.sum(axis=1)
    pairs_PKK = kinds_PK[:, :, None] * (kinds_PK[:, None, :] - np.eye(len(values)))
    pairs_PKK /= (sizes_P - 1)[:, None, None]

    def alpha(draws_RP: Floats) -> Floats:
        met_RKK = np.einsum("rp,pkl->rkl", draws_RP, pairs_PKK)
        said_RK = met_RKK.sum(axis=2)
        apart_RKK = _ordinal(said_RK) if order else 1 - np.eye(len(values))
        expected_R = (said_RK[:, :, None] * said_RK[:, None, :] * apart_RKK).sum(axis=(1, 2))
        observed_R = (met_RKK * apart_RKK).sum(axis=(1, 2)) * (said_RK.sum(axis=1) - 1)
        return _above_chance(-observed_R, -expected_R, perfect=0)

    return _interval(times, alpha)


def _above_chance(found_R: Floats, chance_R: Floats, perfect: float = 1) -> Floats:
    """How far from chance to perfect; NaN where chance is perfect as well."""
    room_R = perfect - chance_R
    has_room_R = room_R > 1e-12
    return np.where(has_room_R, (found_R - chance_R) / np.where(has_room_R, room_R, 1), np.nan)


def _ordinal(said_RK: Floats) -> Floats:
    """Squared distance of two grades: values said between them, half of those at either end."""
    middle_RK = said_RK.cumsum(axis=1) - said_RK / 2
    return np.asarray((middle_RK[:, :, None] - middle_RK[:, None, :]) ** 2)


def _kinds(
    readings: Sequence[Sequence[str]], order: Sequence[str] = ()
) -> tuple[Floats, list[int], Sequence[str]]:
    """How often each value was said, a row for each kind of case; how many cases it has; the values."""
    values = order or sorted({value for said in readings for value in said})
    times = Counter(tuple(map(said.count, values)) for said in map(list, readings))
    return np.array(list(times), dtype=np.float64), list(times.values()), values


def _one_hot(said: Sequence[str], values: Sequence[str]) -> Floats:
    return np.array([[float(one == value) for value in values] for one in said])


def _interval(times: Sequence[int], coefficient: Callable[[Floats], Floats]) -> Interval:
    n = sum(times)
    if n < 2:
        return None
    draws_RP = np.random.default_rng(_SEED).multinomial(n, np.array(times) / n, size=RESAMPLES)
    found_R = coefficient(draws_RP.astype(np.float64))
    if np.isnan(found_R).mean() > 0.5:
        return None
    low, high = np.nanpercentile(found_R, [2.5, 97.5])
    return float(low), float(high)
