"""One scaling: what it finds in simulated answers, and that nothing breaks it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from sonoloop.model.scaling import MAX_TEMPERATURE, MIN_TEMPERATURE, Scaling, fit_scaling


def simulated(
    num: int, *, sharpness: float = 1.0, shift: float = 0.0, seed: int = 0
) -> tuple[list[float], list[bool]]:
    """Probabilities a model states, and what was kept; its log odds are ``sharpness * true + shift``."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0.5, 1.5, num)
    kept = rng.random(num) < 1 / (1 + np.exp(-log_odds))
    stated = 1 / (1 + np.exp(-(sharpness * log_odds + shift)))
    return stated.tolist(), kept.tolist()


def loss(scaling: Scaling, probabilities: list[float], kept: list[bool]) -> float:
    pairs = zip(probabilities, kept, strict=True)
    return -sum(math.log(scaling(p) if right else 1 - scaling(p)) for p, right in pairs) / len(kept)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5, 6.0])
def test_the_temperature_is_how_much_too_sure_the_model_was_and_no_bias_is_added(sharpness: float) -> None:
    scaling = fit_scaling(*simulated(4000, sharpness=sharpness))
    assert scaling.temperature == pytest.approx(sharpness, rel=0.12)
    assert scaling.bias == 0.0
    assert scaling.num_values == 4000


def test_a_model_that_is_sure_and_mostly_wrong_gets_a_bias() -> None:
    probabilities, kept = simulated(2000, shift=3.0)
    scaling = fit_scaling(probabilities, kept)
    assert scaling.bias == pytest.approx(-3.0, abs=0.4)
    assert loss(scaling, probabilities, kept) < loss(Scaling(), probabilities, kept) - 0.3


def test_a_temperature_alone_cannot_take_sure_and_wrong_values_below_one_half() -> None:
    assert Scaling(temperature=MAX_TEMPERATURE)(0.95) > 0.5
    scaling = fit_scaling([0.95, 0.9, 0.97, 0.93] * 50, [True, False, False, False] * 50)
    assert scaling(0.95) == pytest.approx(0.25, abs=0.05)


def test_no_other_temperature_or_bias_is_better() -> None:
    probabilities, kept = simulated(3000, sharpness=3.0, shift=-1.0, seed=4)
    found = fit_scaling(probabilities, kept)
    for temperature in (0.97, 1.03):
        for bias in (-0.05, 0.05):
            near = Scaling(temperature=found.temperature * temperature, bias=found.bias + bias)
            assert loss(found, probabilities, kept) < loss(near, probabilities, kept) + 1e-5


def test_a_calibrated_probability_rises_with_the_stated_one_and_stays_between_0_and_1() -> None:
    for temperature in (MIN_TEMPERATURE, 1.0, MAX_TEMPERATURE):
        for bias in (-10.0, 0.0, 10.0):
            scaled = [Scaling(temperature=temperature, bias=bias)(p) for p in np.linspace(0, 1, 101)]
            assert all(0 <= one <= other <= 1 for one, other in pairwise(scaled))


def test_a_scaling_that_was_not_fitted_changes_nothing() -> None:
    for probability in (1e-5, 0.2, 0.5, 0.999):
        assert Scaling()(probability) == pytest.approx(probability)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num", [1, 60])
def test_values_all_alike_give_a_finite_scaling(num: int, probability: float, kept: bool) -> None:
    scaling = fit_scaling([probability] * num, [kept] * num)
    assert MIN_TEMPERATURE <= scaling.temperature <= MAX_TEMPERATURE
    assert 0 < scaling(probability) < 1


def test_few_values_that_were_all_kept_prove_no_certainty() -> None:
    assert fit_scaling([1.0] * 10, [True] * 10)(1.0) == pytest.approx(11 / 12, abs=0.02)
    assert fit_scaling([1.0] * 1000, [True] * 1000)(1.0) > 0.998


@pytest.mark.parametrize(("probabilities", "kept"), [([], []), ([0.5], [])])
def test_no_value_or_a_verdict_missing_is_a_wrong_argument(
    probabilities: list[float], kept: list[bool]
) -> None:
    with pytest.raises(ValueError, match="a verdict per probability"):
        fit_scaling(probabilities, kept)


def test_a_temperature_that_is_none_is_refused() -> None:
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValidationError):
            Scaling(temperature=temperature)
