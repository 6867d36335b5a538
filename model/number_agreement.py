"""How far readers agree on a number, such as a size in millimetres, as pure figures over what they said.

- Limits of agreement: the mean difference of two readers (bias), and 1.96 standard deviations of the
  differences to either side. Source: Bland and Altman, Lancet 1986;1:307-310.
- ICC(2,1): share of the variance that lies between cases; absolute agreement of single readings. Source:
  Shrout and Fleiss, Psychol Bull 1979;86:420-428, case 2.
- Reproducibility: 1.96 √2 within-case standard deviations; 95 % of the differences of any two readers are
  below it. Source: Bland and Altman, Stat Methods Med Res 1999;8:135-160, section 4.

Limits and reproducibility take differences to be about normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.model.intervals import Estimate, estimate

_NORMAL_95 = 1.96


class PairedNumbers(BaseModel):
    """Two readers over the cases that both measured; in the unit of the numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    absolute_difference: Estimate
    bias: Estimate = Field(description="second reader less first, mean")
    limits: tuple[float, float] | None = Field(description="of agreement; null for a single case")
    icc: float | None = Field(description="ICC(2,1); null for a single case or where all numbers are one")


class SharedNumbers(BaseModel):
    """Any readers over the cases that two or more of them measured; in the unit of the numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    absolute_difference: Estimate = Field(description="mean over a case's pairs of readers")
    reproducibility: float


def paired_numbers(pairs: Sequence[tuple[float, float]]) -> PairedNumbers:
    """The figures of two readers.

    Args:
        pairs: What the first and the second measured in each case that both measured.

    Raises:
        ValueError: no case.
    """
    differences = [second - first for first, second in pairs]
    bias, absolute = estimate(differences), estimate([abs(one) for one in differences])
    if bias is None or absolute is None:
        raise ValueError("agreement takes a case that both readers measured, got none")
    limits = None
    if len(pairs) > 1:
        reach = _NORMAL_95 * float(np.std(differences, ddof=1))
        limits = bias.value - reach, bias.value + reach
    return PairedNumbers(absolute_difference=absolute, bias=bias, limits=limits, icc=icc_2_1(pairs))


def shared_numbers(readings: Sequence[Sequence[float]]) -> SharedNumbers:
    """The figures of any readers.

    Args:
        readings: What was measured in each case, by two or more readers.

    Raises:
        ValueError: no case, or a case with fewer than two readers.
    """
    if not readings or min(map(len, readings)) < 2:
        raise ValueError("agreement takes cases that two readers measured")
    apart = [[abs(one - other) for one, other in combinations(values, 2)] for values in readings]
    absolute = estimate([sum(of_case) / len(of_case) for of_case in apart])
    assert absolute is not None, "there is a case"
    within = float(np.mean([np.var(values, ddof=1) for values in readings]))
    return SharedNumbers(absolute_difference=absolute, reproducibility=_NORMAL_95 * (2 * within) ** 0.5)


def icc_2_1(readings: Sequence[Sequence[float]]) -> float | None:
    """Intraclass correlation of single readings, absolute agreement; readers are a sample of readers.

    Args:
        readings: A row for each case, a number for each reader, the same readers throughout.

    Returns:
        ``None`` for fewer than two cases, and where nothing varies.

    Source: Shrout and Fleiss 1979, ICC(2,1), from the mean squares of cases, readers and what is left.
    """
    said = np.array(readings, dtype=np.float64)
    if len(said) < 2 or np.ptp(said) == 0:
        return None
    num_cases, num_readers = said.shape
    of_case, of_reader = said.mean(axis=1, keepdims=True), said.mean(axis=0, keepdims=True)
    cases = num_readers * float(((of_case - said.mean()) ** 2).sum()) / (num_cases - 1)
    readers = num_cases * float(((of_reader - said.mean()) ** 2).sum()) / (num_readers - 1)
    left = said - of_case - of_reader + said.mean()
    error = float((left**2).sum()) / ((num_cases - 1) * (num_readers - 1))
    total = cases + (num_readers - 1) * error + num_readers * (readers - error) / num_cases
    return None if total == 0 else (cases - error) / total
