"""The bootstrap over patients: right figures, honest intervals, the same every time."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from sonoloop.model.calibration import expected_calibration_error
from sonoloop.model.metrics.labels import macro_f1
from sonoloop.model.resampling import (
    bleu_1,
    bound,
    calibration_error,
    difference,
    draw,
    estimates_over,
    interval,
    mean,
    ratio,
    values_of,
)

LABELS = [f"organ.field{number % 5}={number}" for number in range(20)]


def labelled(num: int, *, seed: int = 0) -> tuple[list[frozenset[str]], list[frozenset[str]]]:
    rng = np.random.default_rng(seed)
    wanted = [frozenset(rng.choice(LABELS, 4, replace=False).tolist()) for _ in range(num)]
    said = [frozenset(x if rng.random() < 0.7 else str(rng.choice(LABELS)) for x in own) for own in wanted]
    return said, wanted


def plain_macro_f1(said: list[frozenset[str]], wanted: list[frozenset[str]]) -> float:
    """By the definition, in plain Python: precision and recall of each label that is wanted somewhere."""
    hits, drafted, true = Counter[str](), Counter[str](), Counter[str]()
    for one, other in zip(said, wanted, strict=True):
        hits.update(one & other)
        drafted.update(one)
        true.update(other)
    scores = []
    for label, num in true.items():
        precision = hits[label] / drafted[label] if drafted[label] else 0.0
        recall = hits[label] / num
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(scores) / len(scores)


def test_macro_f1_of_a_draw_is_that_of_the_cases_written_out() -> None:
    said, wanted = labelled(12)
    weights = np.array([[1] * 12, [3, 0, 2, 0, 0, 1, 0, 4, 0, 0, 1, 1]])
    found = macro_f1(said, wanted)(weights.astype(float))
    for row, value in zip(weights, found, strict=True):
        cases = [case for case, times in enumerate(row) for _ in range(times)]
        again = plain_macro_f1([said[case] for case in cases], [wanted[case] for case in cases])
        assert value == pytest.approx(again)


def test_calibration_error_and_ratio_of_a_draw_are_those_of_the_values_written_out() -> None:
    rng = np.random.default_rng(1)
    probabilities = [rng.random(num).tolist() for num in (3, 0, 5, 1)]
    kept = [(rng.random(len(own)) < 0.6).tolist() for own in probabilities]
    weights = [2, 7, 0, 1]
    flat = [p for own, times in zip(probabilities, weights, strict=True) for p in own * times]
    right = [k for own, times in zip(kept, weights, strict=True) for k in own * times]
    drawn = np.array([weights], dtype=float)
    assert calibration_error(probabilities, kept)(drawn)[0] == pytest.approx(
        expected_calibration_error(flat, right)
    )
    share = ratio([float(sum(own)) for own in kept], [len(own) for own in kept])(drawn)[0]
    assert share == pytest.approx(sum(right) / len(right))


def test_bleu_1_has_a_brevity_penalty_and_is_0_for_nothing_said() -> None:
    figure = bleu_1([8, 0], [8, 0], [16, 10])
    assert figure(np.array([[1.0, 0.0]]))[0] == pytest.approx(np.exp(1 - 2))
    assert figure(np.array([[0.0, 1.0]]))[0] == 0
    assert bleu_1([8], [10], [5])(np.ones((1, 1)))[0] == pytest.approx(0.8)  # nothing is gained by length


def test_a_figure_of_nothing_is_undefined_and_has_no_estimate() -> None:
    found = estimates_over(["a", "b"], {"none": (ratio([0, 0], [0, 0]), 0), "one": (mean([1, 2]), 2)})
    assert found["none"] is None
    assert found["one"] is not None
    assert found["one"].n == 2


def test_one_patient_gives_a_figure_without_an_interval() -> None:
    found = estimates_over(["a", "a"], {"mean": (mean([1, 2]), 2)})["mean"]
    assert found is not None
    assert (found.value, found.low, found.high) == (1.5, None, None)


def test_patients_are_drawn_with_all_their_cases() -> None:
    """Ten cases of one patient and one of another: the mean of a draw is 0, 10/11 or 1, nothing between."""
    draws = draw(["a"] * 10 + ["b"], mean([1.0] * 10 + [0.0]))[0]
    assert set(np.round(draws, 6)) == {0.0, round(10 / 11, 6), 1.0}


def test_cases_that_repeat_their_patient_make_no_interval_narrower() -> None:
    values = np.random.default_rng(2).random(30).tolist()
    patients = [f"p{number}" for number in range(30)]
    one = estimates_over(patients, {"m": (mean(values), 30)})["m"]
    many = estimates_over(patients * 8, {"m": (mean(values * 8), 240)})["m"]
    assert one is not None
    assert many is not None
    assert (many.low, many.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_all_figures_are_drawn_alike_and_the_same_every_time() -> None:
    said, wanted = labelled(20)
    patients = [f"p{number // 2}" for number in range(20)]
    figure = macro_f1(said, wanted)
    together = draw(patients, figure, figure)
    assert np.array_equal(together[0], together[1])
    assert np.array_equal(together[0], draw(patients, figure)[0])
    assert not draw(patients, difference(figure, figure)).any()


@pytest.mark.parametrize("num", [8, 40])
def test_intervals_hold_the_truth_about_as_often_as_they_say(num: int) -> None:
    """Patients of two cases each that share half of their spread; the true mean is 0."""
    rng = np.random.default_rng(3)
    patients = [f"p{number // 2}" for number in range(2 * num)]
    inside = above = 0
    for _ in range(500):
        values = np.repeat(rng.exponential(size=num) - 1, 2) + rng.normal(size=2 * num)
        (draws,) = draw(patients, mean(values.tolist()), num=400)
        low, high = interval(draws, num_groups=num, confidence=0.9)
        assert low is not None
        assert high is not None
        inside += low <= 0 <= high
        above += bound(draws, 0.05, num_groups=num) > 0
    assert 0.85 <= inside / 500 <= 0.95
    assert above / 500 <= 0.05


def test_two_models_of_the_same_worth_differ_by_the_bound_about_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(4)
    patients = [f"p{number}" for number in range(25)]
    promoted = 0
    for trial in range(300):
        _, wanted = labelled(25, seed=trial)
        one, other = (
            macro_f1([frozenset(x for x in own if rng.random() < 0.7) for own in wanted], wanted)
            for _ in range(2)
        )
        (draws,) = draw(patients, difference(one, other), num=400)
        promoted += bound(draws, 0.05, num_groups=25) > 0
    assert promoted / 300 <= 0.08  # 5 % and two standard errors of 300 trials


def test_a_thousand_draws_of_a_thousand_cases_take_no_time() -> None:
    said, wanted = labelled(1000)
    patients = [f"p{number}" for number in range(1000)]
    figure = macro_f1(said, wanted)
    begin = time.process_time()
    draw(patients, figure, num=1000)
    assert time.process_time() - begin < 2
    assert values_of(patients, figure)[0] == pytest.approx(plain_macro_f1(said, wanted))
