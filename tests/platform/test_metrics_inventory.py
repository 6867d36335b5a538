"""Every metric follows one naming scheme and carries nothing that grows without bound."""

from __future__ import annotations

import re

import pytest

from sonoloop.platform.metrics import INVENTORY, UNITS, Metric

MAY_LABEL = {
    "alias", "code", "currency", "kind", "model_version", "reason", "route", "run_id", "source", "stage",
    "status", "what",
}  # fmt: skip


@pytest.mark.parametrize("metric", INVENTORY, ids=lambda metric: metric.name)
def test_a_name_tells_room_thing_and_unit_and_a_counter_ends_in_total(metric: Metric) -> None:
    assert re.fullmatch(r"sonoloop_(annotate|stage|finetune|serve|loop)(_[a-z]+)+", metric.name)
    assert metric.unit in UNITS
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(metric.buckets)
    assert metric.description.endswith(".")


@pytest.mark.parametrize("metric", INVENTORY, ids=lambda metric: metric.name)
def test_labels_are_few_and_run_ids_stand_on_gauges_only(metric: Metric) -> None:
    assert set(metric.labels) <= MAY_LABEL
    assert "run_id" not in metric.labels or metric.kind == "gauge"


def test_no_name_stands_twice() -> None:
    names = [metric.name for metric in INVENTORY]
    assert len(set(names)) == len(names) >= 40
