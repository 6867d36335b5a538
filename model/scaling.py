"""One scaling of probabilities, fitted on what became of them: temperature, and a shift where it is needed.

The log odds of a probability are divided by a temperature under which the negative log likelihood of "the
reader kept this value" is lowest. Source: Guo et al., ICML 2017, arXiv:1706.04599, section 4.2. A temperature
alone never takes a probability across one half, so values that are wrong more often than right although the
model is sure need a shift as well (Platt, Advances in Large Margin Classifiers 1999); it is kept where the
values pay for it (Bayesian information criterion: Schwarz, Annals of Statistics 1978).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 100.0
MAX_BIAS = 10.0
CLIP = 1e-6
"""Probabilities are held this far from 0 and 1, where the log odds have no end."""

Array = NDArray[np.float64]


class Scaling(BaseModel):
    """``sigmoid(logit(p) / temperature + bias)``; as it is, it changes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    temperature: float = Field(
        default=1.0, ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE, description="above 1: the model is too sure"
    )
    bias: float = Field(default=0.0, ge=-MAX_BIAS, le=MAX_BIAS, description="shift of the log odds")
    num_values: int = Field(default=0, ge=0, description="judged values it was fitted on")

    def __call__(self, probability: float) -> float:
        """The calibrated probability, inside 0..1 also for 0 and 1; rises with its argument."""
        return float(self.each([probability])[0])

    def each(self, probabilities: Sequence[float] | Array) -> Array:
        """The same of many, float64."""
        scaled: Array = 1 / (1 + np.exp(-_logits(probabilities) / self.temperature - self.bias))
        return scaled


def fit_scaling(probabilities: Sequence[float], kept: Sequence[bool]) -> Scaling:
    """The temperature, and the bias where it is needed, under which what was kept is most likely.

    Args:
        probabilities: 0..1.
        kept: Whether each value was kept.

    Raises:
        ValueError: no value, or lengths that differ.
    """
    problem, num_values = _Problem.of(probabilities, kept), len(kept)
    alone = _lowest(lambda temperature: problem.loss(temperature, 0.0))
    shifted = _lowest(lambda temperature: problem.loss(temperature, problem.best_bias(temperature)))
    loss, moved = problem.loss(alone, 0.0), problem.loss(shifted, problem.best_bias(shifted))
    if 2 * num_values * (loss - moved) > math.log(num_values):
        return Scaling(temperature=shifted, bias=problem.best_bias(shifted), num_values=num_values)
    return Scaling(temperature=alone, num_values=num_values)


@dataclass(frozen=True)
class _Problem:
    """Log odds and targets of the values to fit."""

    logits: Array
    targets: Array

    @classmethod
    def of(cls, probabilities: Sequence[float], kept: Sequence[bool]) -> Self:
        """Targets are held off 0 and 1 by one imagined value each way: few values prove no certainty.

        Source: Platt 1999, section 2.2.
        """
        if not kept or len(probabilities) != len(kept):
            raise ValueError(f"expected a verdict per probability, got {len(kept)} for {len(probabilities)}")
        num_kept = sum(kept)
        high, low = (num_kept + 1) / (num_kept + 2), 1 / (len(kept) - num_kept + 2)
        return cls(_logits(probabilities), np.where(np.asarray(kept, dtype=np.bool_), high, low))

    def loss(self, temperature: float, bias: float) -> float:
        """Mean negative log likelihood, nats."""
        scaled = self.logits / temperature + bias
        return float(np.mean(np.logaddexp(0, scaled) - self.targets * scaled))

    def best_bias(self, temperature: float) -> float:
        """The loss is convex in the bias: halve the interval on its slope."""
        low, high, scaled = -MAX_BIAS, MAX_BIAS, self.logits / temperature
        for _ in range(40):
            middle = (low + high) / 2
            slope = np.mean(1 / (1 + np.exp(-scaled - middle)) - self.targets)
            low, high = (middle, high) if slope < 0 else (low, middle)
        return (low + high) / 2


def _logits(probabilities: Sequence[float] | Array) -> Array:
    p: Array = np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1 - CLIP)
    logits: Array = np.log(p) - np.log1p(-p)
    return logits


def _lowest(loss: Callable[[float], float]) -> float:
    """The temperature of the lowest loss by golden-section search; 1 where no other is better.

    The loss is convex in 1 / temperature, so on a logarithmic scale it has one valley.
    """
    shrink = (math.sqrt(5) - 1) / 2
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(40):
        left, right = high - shrink * (high - low), low + shrink * (high - low)
        low, high = (low, right) if loss(math.exp(left)) <= loss(math.exp(right)) else (left, high)
    found = min(max(math.exp((low + high) / 2), MIN_TEMPERATURE), MAX_TEMPERATURE)
    return found if loss(found) < loss(1.0) - 1e-12 else 1.0
