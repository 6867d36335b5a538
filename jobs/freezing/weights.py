"""How much each review counts in training: what people changed, how readers agree, how good a reader is.

All functions are pure, and give the same for the same on any machine: plain floats, summed exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import fsum

from sonoloop.jobs.freezing.config import SnapshotConfig
from sonoloop.jobs.reporting.quality import ReaderQuality

BY_PEOPLE = frozenset({"prediction-changed", "manual"})
DIGITS = 6
_HALVINGS = 100


def changed_share(origins: Mapping[str, str]) -> float:
    """Share of a review's filled fields that people changed or filled themselves, 0..1; 0 without any."""
    filled = [origin for origin in origins.values() if origin != "missing"]
    return sum(origin in BY_PEOPLE for origin in filled) / len(filled) if filled else 0.0


def agreement(readings: Sequence[Mapping[str, str]]) -> float | None:
    """Mean over pairs of readers of the share of fields on which they agree, 0..1; ``None`` for one reader.

    Args:
        readings: For each reader, field to choice; a field that only one of a pair has is a disagreement.
    """
    pairs = [(one, other) for one, other in combinations(readings, 2) if one or other]
    if not pairs:
        return None
    shares = [
        sum(one.get(name) == other.get(name) for name in one.keys() | other.keys())
        / len(one.keys() | other.keys())
        for one, other in pairs
    ]
    return fsum(shares) / len(shares)


def reader_factors(readers: Sequence[ReaderQuality], prior: float) -> dict[str, float]:
    """How much each reader counts beside the mean reader, which is 1; those without known cases are not here.

    With ``q`` the share of a reader's choices that are true, over ``n`` known cases, and ``m`` the mean of
    all readers' cases, the factor is ``(q n + m prior) / (n + prior) / m``: few cases say little.

    Args:
        readers: Of `measure_readers`.
        prior: Cases at which the reader's own share counts as much as the mean.
    """
    known = [row for row in readers if row.field is None]
    num_cases = sum(row.right.n for row in known)
    mean = fsum(row.right.value * row.right.n for row in known) / num_cases if num_cases else 0.0
    if not mean:
        return {}
    return {
        row.reader: (row.right.value * row.right.n + mean * prior) / (row.right.n + prior) / mean
        for row in known
    }


def raw_weight(changed: float, agreeing: float | None, reader: float, config: SnapshotConfig) -> float:
    """The weight of a review before it is fitted to the others.

    ``(1 + changed_gain * changed) * (1 + agreement_gain * (2 * agreeing - 1)) * reader``; the middle factor
    is 1 where one person read the case.

    Args:
        changed: Of `changed_share`.
        agreeing: Of `agreement`.
        reader: Of `reader_factors`; 1 for a reader who is not there.
        config: The gains.
    """
    second = 1.0 if agreeing is None else 1 + config.agreement_gain * (2 * agreeing - 1)
    return (1 + config.changed_gain * changed) * second * reader


def fitted(raw: Sequence[float], low: float, high: float) -> list[float]:
    """The weights ``min(max(c * raw, low), high)`` with the one factor ``c`` that makes their mean 1.

    Args:
        raw: Weights above 0.
        low: Least weight, in (0, 1].
        high: Greatest weight, 1 or above.

    Returns:
        Weights of ``DIGITS`` digits; their mean is 1 within those.
    """
    if not raw:
        return []
    least, most = low / max(raw), high / min(raw)  # at these all weights are `low`, and all are `high`
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        if fsum(_clipped(raw, middle, low, high)) < len(raw):
            least = middle
        else:
            most = middle
    return [round(weight, DIGITS) for weight in _clipped(raw, most, low, high)]


def _clipped(raw: Sequence[float], factor: float, low: float, high: float) -> list[float]:
    return [min(max(factor * weight, low), high) for weight in raw]
