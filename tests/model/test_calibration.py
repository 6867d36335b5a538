"""Calibrators, their error, and the score of a case."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from sonoloop.model.calibration import (
    MIN_VALUES,
    CalibrationFigures,
    Calibrator,
    JudgedValue,
    calibration_error,
    case_confidence,
    cross_calibrated,
    expected_calibration_error,
    fit,
    judged_values,
    measure,
)
from sonoloop.model.scaling import Scaling
from sonoloop.platform.lexicon import Organ, parse_entities
from sonoloop.platform.records import DraftRecord

PRESENT = (
    '{"organ":"liver","parenchyma":"normal","lesion":"present","echogenicity":"hypoechoic",'
    '"margin":"well-defined","posterior_features":"none"}'
)
ABSENT = '{"organ":"liver","parenchyma":"coarse","lesion":"absent"}'
KIDNEY = '{"organ":"kidney","collecting_system":"dilated","lesion":"absent"}'
NAMES = {"model_version": "m/1", "prompt_version": "p", "snapshot": "s"}


def draft(entities: str = PRESENT, **changes: object) -> DraftRecord:
    return DraftRecord.model_validate(
        {
            "case_id": "c",
            "run_id": "r",
            "model_version": "m/1",
            "prompt_version": "p",
            "config_hash": "h",
            "status": "draft",
            "entities": entities,
            **changes,
        }
    )


def calibrator(**organs: Scaling) -> Calibrator:
    return Calibrator.model_validate({**NAMES, "pooled": Scaling(), "organs": organs})


def simulated(
    num: int, *, organ: Organ = "liver", sharpness: float = 3.0, shift: float = 0.0, seed: int = 0
) -> list[JudgedValue]:
    """Judged values of a model that is ``sharpness`` times too sure, five of each patient."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0.7, 1.2, num)
    kept = rng.random(num) < 1 / (1 + np.exp(-log_odds))
    stated = 1 / (1 + np.exp(-(sharpness * log_odds + shift)))
    pairs = enumerate(zip(stated.tolist(), kept.tolist(), strict=True))
    return [JudgedValue(f"{organ}-{place // 5}", organ, p, right) for place, (p, right) in pairs]


@pytest.mark.parametrize(
    ("probabilities", "kept", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], [True, True, True, True], 0.0),
        ([1.0, 1.0, 1.0, 1.0], [True, True, False, False], 0.5),
        ([0.0, 0.0], [True, True], 1.0),
        # bins of a tenth: (0.8, 0.9] holds 0.9 and 0.85: |0.875 - 0.5|; (0.1, 0.2] holds 0.2: |0.2 - 0|
        ([0.9, 0.85, 0.2], [True, False, False], (2 * 0.375 + 0.2) / 3),
        # one bin: what is too sure and what is too unsure cancel
        ([0.89, 0.81], [True, False], 0.35),
        # two bins: they do not
        ([0.95, 0.15], [False, True], 0.9),
    ],
)
def test_the_calibration_error_is_as_computed_by_hand(
    probabilities: list[float], kept: list[bool], expected: float
) -> None:
    assert expected_calibration_error(probabilities, kept, num_bins=10) == pytest.approx(expected)


def test_fifteen_bins_of_equal_width_hold_their_upper_edges() -> None:
    edge = 1 / 3  # the upper edge of the fifth bin: alone there, apart from what lies just above it
    assert expected_calibration_error([edge, edge + 1e-6], [True, False]) == pytest.approx(0.5, abs=1e-5)
    assert expected_calibration_error([edge, edge - 1e-6], [True, False]) == pytest.approx(1 / 6, abs=1e-5)


@pytest.mark.parametrize("kept", [[], [True, False]])
def test_a_calibration_error_of_nothing_is_a_wrong_argument(kept: list[bool]) -> None:
    with pytest.raises(ValueError, match="one verdict per probability"):
        expected_calibration_error([0.5] if kept else [], kept)


def test_the_calibration_error_of_an_overconfident_model_falls_on_values_that_no_fit_saw() -> None:
    figures = measure(simulated(1500))
    assert figures.reason is None
    assert figures.ece_before is not None
    assert figures.ece_after is not None
    assert figures.ece_before > 0.12
    assert figures.ece_after < 0.5 * figures.ece_before
    assert figures.share_kept == pytest.approx(0.63, abs=0.04)


def test_each_organ_has_its_own_scaling_and_one_with_few_values_takes_the_common_one() -> None:
    values = [
        *simulated(800, organ="liver", sharpness=4.0),
        *simulated(800, organ="kidney", sharpness=1.0, seed=1),
        *simulated(MIN_VALUES - 1, organ="breast", sharpness=9.0, seed=2),
    ]
    found = fit(values, **NAMES)
    assert set(found.organs) == {"liver", "kidney"}
    assert found.organs["liver"].temperature == pytest.approx(4.0, rel=0.25)
    assert found.organs["kidney"].temperature == pytest.approx(1.0, rel=0.25)
    assert found("breast", 0.9) == found.pooled(0.9) == found("thyroid", 0.9)
    assert found("liver", 0.9) < found("kidney", 0.9)
    assert found.pooled.num_values == len(values)


def test_no_value_is_judged_by_a_fit_that_saw_its_patient() -> None:
    values = simulated(400)
    mine = values[0].group
    before = cross_calibrated(values)
    turned = [
        JudgedValue(v.group, v.organ, v.probability, not v.kept) if v.group == mine else v for v in values
    ]
    after = cross_calibrated(turned)
    own = [place for place, value in enumerate(values) if value.group == mine]
    assert [after[place] for place in own] == [before[place] for place in own]
    assert after != before, "patients of the other folds are judged by fits that saw this one"


def test_folds_do_not_depend_on_the_order_of_the_values() -> None:
    values = simulated(300)
    forward, backward = cross_calibrated(values), cross_calibrated(values[::-1])
    assert forward == pytest.approx(backward[::-1])


@pytest.mark.parametrize(
    "values", [[], simulated(MIN_VALUES - 1), [JudgedValue("one", "liver", 0.5, True)] * 100]
)
def test_too_few_values_or_patients_give_no_figures_and_say_so(values: list[JudgedValue]) -> None:
    figures = measure(values)
    assert (figures.ece_before, figures.ece_after, figures.share_kept) == (None, None, None)
    assert figures.num_values == len(values)
    assert f"{len(values)} drafted values of" in str(figures.reason)


def test_two_patients_are_enough_for_figures() -> None:
    values = [JudgedValue(f"p{n % 2}", "liver", 0.9, n % 3 > 0) for n in range(MIN_VALUES)]
    assert measure(values).ece_after is not None
    with pytest.raises(ValueError, match="two groups"):
        cross_calibrated(values[:1])


def test_a_value_is_kept_where_the_reference_has_the_same_organ_and_the_same_value() -> None:
    probabilities = {"parenchyma": 0.9, "lesion": 0.8, "margin": 0.7, "echogenicity": 0.6}
    reference = parse_entities(PRESENT.replace('"hypoechoic"', '"isoechoic"'))
    found = judged_values(draft(value_probabilities=probabilities), reference, group="g")
    assert {value.probability: value.kept for value in found} == {0.9: True, 0.8: True, 0.7: True, 0.6: False}
    assert {(value.group, value.organ) for value in found} == {("g", "liver")}


def test_descriptors_of_a_lesion_that_is_not_there_were_not_kept() -> None:
    probabilities = {"lesion": 0.8, "margin": 0.7, "posterior_features": 0.6}
    found = judged_values(draft(value_probabilities=probabilities), parse_entities(ABSENT), group="g")
    assert [value.kept for value in found] == [False, False, False]


def test_nothing_is_kept_of_a_draft_about_another_organ() -> None:
    absent = draft(ABSENT, value_probabilities={"organ": 0.9, "lesion": 0.8})
    found = judged_values(absent, parse_entities(KIDNEY), group="g")
    assert [value.kept for value in found] == [False, False]


def test_a_rejection_and_a_draft_without_choices_judge_nothing() -> None:
    rejected = draft().model_copy(update={"status": "rejected", "entities": None})
    assert judged_values(rejected, parse_entities(ABSENT), group="g") == []
    assert judged_values(draft(), parse_entities(PRESENT), group="g") == []


def test_the_confidence_of_a_case_is_the_expected_share_of_kept_values() -> None:
    sure = draft(value_probabilities={"parenchyma": 0.9, "lesion": 0.5}, confidence=0.1)
    assert case_confidence(sure, None) == pytest.approx(0.7)
    half = calibrator(liver=Scaling(temperature=100.0))
    assert case_confidence(sure, half) == pytest.approx(0.5, abs=0.01)
    other = calibrator(kidney=Scaling(temperature=100.0))
    assert case_confidence(sure, other) == pytest.approx(0.7)


def test_a_case_without_choices_has_the_confidence_it_was_written_with() -> None:
    flat = calibrator(liver=Scaling(temperature=100.0))
    assert case_confidence(draft(confidence=0.4), flat) == 0.4
    assert case_confidence(draft(), flat) is None


def test_the_error_of_calibrated_values_is_the_error_after_the_calibrator() -> None:
    values = [JudgedValue("g", "liver", 0.95, n % 2 == 0) for n in range(10)]
    assert calibration_error(values) == pytest.approx(0.45)
    flat = calibrator(liver=Scaling(temperature=100.0))
    assert calibration_error(values, flat) == pytest.approx(flat("liver", 0.95) - 0.5)


def test_a_calibrator_comes_back_from_json_as_it_was_and_another_format_is_refused() -> None:
    found = fit(simulated(200), **NAMES)
    assert Calibrator.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValidationError):
        Calibrator.model_validate({**found.model_dump(), "format": 2})


def test_figures_come_back_from_json_as_they_were() -> None:
    for figures in (measure(simulated(200)), measure([])):
        assert CalibrationFigures.model_validate_json(figures.model_dump_json()) == figures
