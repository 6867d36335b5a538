"""What makes a review count more, and that the mean review counts 1 within bounds."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from said import give_tasks
from tests.jobs.test_snapshot import START, case, pull, review

from sonoloop.jobs.freezing.config import SnapshotConfig
from sonoloop.jobs.freezing.weights import (
    agreement,
    changed_share,
    fitted,
    raw_weight,
    reader_factors,
)
from sonoloop.jobs.reporting.quality import ReaderQuality
from sonoloop.jobs.snapshot import freeze_snapshot, read_snapshot
from sonoloop.model.intervals import Estimate
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.workspace import Store

KIDNEY = '{"organ":"kidney","collecting_system":"not dilated","lesion":"absent"}'


def quality(reader: str, share: float, num_cases: int, field: str | None = None) -> ReaderQuality:
    return ReaderQuality(reader=reader, field=field, right=Estimate(value=share, n=num_cases))


def test_fields_that_people_changed_or_filled_count_and_empty_ones_do_not() -> None:
    origins = {"a": "prediction", "b": "prediction-changed", "c": "manual", "d": "missing"}
    assert changed_share(origins) == pytest.approx(2 / 3)
    assert changed_share({"a": "missing"}) == changed_share({}) == 0


def test_agreement_is_the_mean_over_pairs_and_there_is_none_of_one_reader() -> None:
    liver, coarse, kidney = (
        {"organ": "liver", "liver.parenchyma": "normal"},
        {"organ": "liver", "liver.parenchyma": "coarse"},
        {"organ": "kidney"},
    )
    assert agreement([liver]) is None
    assert agreement([liver, liver]) == 1
    assert agreement([liver, coarse]) == 0.5
    assert agreement([liver, coarse, kidney]) == pytest.approx((0.5 + 0 + 0) / 3)
    assert agreement([{}, {}]) is None, "nobody made a choice"


def test_a_readers_factor_is_drawn_to_the_mean_the_less_is_known() -> None:
    found = reader_factors([quality("a", 0.9, 90), quality("b", 0.4, 10), quality("a", 0.1, 9, "organ")], 10)
    mean = 0.9 * 0.9 + 0.1 * 0.4
    assert found["a"] == pytest.approx((0.9 * 90 + mean * 10) / 100 / mean)
    assert found["b"] == pytest.approx((0.4 * 10 + mean * 10) / 20 / mean)
    assert reader_factors([], 10) == {}
    assert reader_factors([quality("a", 0.0, 3)], 10) == {}, "nobody was ever right: nobody counts more"


def test_the_raw_weight_is_the_product_of_the_three() -> None:
    config = SnapshotConfig(changed_gain=1.0, agreement_gain=0.25)
    assert raw_weight(0, None, 1, config) == 1
    assert raw_weight(1, None, 1, config) == 2
    assert raw_weight(0, 1.0, 1, config) == 1.25
    assert raw_weight(0.5, 0.0, 1.2, config) == pytest.approx(1.5 * 0.75 * 1.2)


@given(
    raw=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=50),
    low=st.floats(0.01, 1),
    high=st.floats(1, 100),
)
def test_fitted_weights_keep_their_order_and_bounds_and_have_the_mean_1(
    raw: list[float], low: float, high: float
) -> None:
    found = fitted(raw, low, high)
    assert sum(found) / len(found) == pytest.approx(1, abs=2e-6)
    assert all(low - 1e-6 <= weight <= high + 1e-6 for weight in found)
    order = sorted(range(len(raw)), key=lambda place: raw[place])
    assert [found[place] for place in order] == sorted(found)


def test_weights_within_bounds_are_in_proportion_and_there_are_none_of_nothing() -> None:
    assert fitted([1, 2, 3], 0.25, 4) == [0.5, 1.0, 1.5]
    assert fitted([1, 1, 1, 97], 0.25, 4) == pytest.approx([0.25, 0.25, 0.25, 3.25], abs=1e-5)
    assert fitted([], 0.25, 4) == []


@pytest.mark.parametrize("bad", [{"min_weight": 1.5}, {"max_weight": 0.5}, {"min_train": 0}, {"gain": 1}])
def test_settings_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SnapshotConfig.model_validate(bad)


def test_a_snapshot_weighs_what_people_changed_how_they_agree_and_who_they_are(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = ["changed", "kept", "agreed", "good", "bad", "held", "known"]
    patient = {"held": "0" * 24}
    cases = [case(name, patient.get(name, f"ffff{place:020}")) for place, name in enumerate(names)]
    store.write_table(CaseRecord.table(cases), "cases", "0.parquet")
    give_tasks(store, "gold", "known", at=START + timedelta(hours=1))
    kept = {"findings": "prediction", "organ": "prediction"}
    pull(
        store,
        "0",
        review("known", reader="expert", annotation_id=7),
        *(
            review("known", hour=2 + place, reader=reader, annotation_id=place, project="p", entities=said)
            for place, (reader, said) in enumerate((("good", review("x").entities), ("bad", KIDNEY)))
        ),
        review("changed", origins={"findings": "prediction-changed", "organ": "prediction"}),
        review("kept", origins=kept),
        review("agreed", origins=kept),
        review("agreed", hour=1, origins=kept, reader="s", annotation_id=2),
        review("good", reader="good", origins=kept),
        review("bad", reader="bad", origins=kept),
        review("held", reader="bad"),
    )
    settings = SnapshotConfig(min_train=1, quality_prior=2)
    snapshot = freeze_snapshot(store, settings, test_share=0.25)
    weight = {row.case_id: row.weight for row in read_snapshot(store, snapshot.name, "train")}
    assert weight["changed"] == pytest.approx(1.5 * weight["kept"], abs=1e-5)
    assert weight["agreed"] == pytest.approx(1.25 * weight["kept"], abs=1e-5)
    assert weight["good"] == pytest.approx((1 + 0.5 * 2) / 3 / 0.5 * weight["kept"], abs=1e-5)
    assert weight["bad"] == pytest.approx((0 + 0.5 * 2) / 3 / 0.5 * weight["kept"], abs=1e-5)
    assert sum(weight.values()) / len(weight) == pytest.approx(1, abs=1e-5)
    assert [row.weight for row in read_snapshot(store, snapshot.name, "test")] == [1.0]
