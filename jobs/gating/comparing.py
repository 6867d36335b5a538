"""The paired comparison of two models on the same cases, and how many cases a comparison needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import norm

from sonoloop.jobs.evaluating.figures import patients_of
from sonoloop.jobs.evaluating.outcomes import CaseOutcome
from sonoloop.model.resampling import Statistic, bound, difference, draw, interval, values_of

Figure = Callable[[Sequence[CaseOutcome]], Statistic]


class Change(BaseModel):
    """A figure of champion and challenger on the same cases; null where it cannot be had."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    champion: float | None
    challenger: float | None
    difference: float | None = Field(description="challenger less champion")
    low: float | None = Field(description="lower end of its interval of 95 %, patients drawn anew")
    high: float | None = Field(description="upper end")
    lower_bound: float | None = Field(description="one-sided, of the confidence that was asked for")
    standard_error: float | None
    num_cases: int


def change(
    champion: Sequence[CaseOutcome],
    challenger: Sequence[CaseOutcome],
    figure: Figure,
    *,
    confidence: float = 0.95,
) -> Change:
    """How a figure changed, with the paired bootstrap: both models on the same draws of patients.

    Args:
        champion: Outcomes of the same cases in the same order as ``challenger``, at least one.
        challenger: Those of the other model.
        figure: What is compared.
        confidence: Of the one-sided lower bound.
    """
    patients = patients_of(challenger)
    num_groups = len(set(patients))
    old, new = figure(champion), figure(challenger)
    before, after, gap = (_known(value) for value in values_of(patients, old, new, difference(new, old)))
    known: dict[str, float | None] = dict.fromkeys(("low", "high", "lower_bound", "standard_error"))
    if gap is not None and num_groups > 1:
        (draws,) = draw(patients, difference(new, old))
        known["low"], known["high"] = interval(draws, num_groups=num_groups)
        known["lower_bound"] = bound(draws, 1 - confidence, num_groups=num_groups)
        known["standard_error"] = float(np.nanstd(draws))
    return Change(champion=before, challenger=after, difference=gap, num_cases=len(patients), **known)


def cases_needed(found: Change, *, above: float, confidence: float, power: float) -> int | None:
    """Cases that would show, most likely, that a change as large as the measured one lies above a limit.

    From the measured spread, which falls with the square root of the number of cases. ``None`` where the
    measured change is not above the limit, so that more cases of the same kind would not help.

    Args:
        found: The measured change.
        above: The limit.
        confidence: Of the one-sided bound.
        power: Chance that the bound will then lie above the limit.

    Source: the sample size of a one-sided test of a mean, n = (sigma (z_confidence + z_power) / effect)^2;
    Chow, Shao and Wang, Sample Size Calculations in Clinical Research, section 3.1.
    """
    if found.difference is None or found.standard_error is None or found.difference <= above:
        return None
    reach = float(norm.ppf(confidence) + norm.ppf(power)) * found.standard_error / (found.difference - above)
    return max(found.num_cases + 1, ceil(found.num_cases * reach**2))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
