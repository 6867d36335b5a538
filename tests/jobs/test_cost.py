"""What a run costs, from the nodes that are there and their prices."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sonoloop.jobs.annotating.cost import CostMeter, price_of
from sonoloop.jobs.config import CostConfig

PRICES = {"ray.io/market-type=spot": 0.5, "GPU": 1.2, "CPU": 0.2}
HOUR = 3600.0


def node(*, alive: bool = True, labels: dict[str, str] | None = None, **resources: float) -> dict[str, Any]:
    """A node as ``ray.nodes()`` tells it."""
    return {"Alive": alive, "Resources": resources, "Labels": labels or {}}


def test_a_node_costs_what_the_first_price_says_that_fits_it() -> None:
    assert price_of(node(CPU=8, GPU=1), PRICES) == 1.2
    assert price_of(node(CPU=8), PRICES) == 0.2
    assert price_of(node(CPU=8, GPU=1, labels={"ray.io/market-type": "spot"}), PRICES) == 0.5
    assert price_of(node(CPU=8, GPU=0), PRICES) == 0.2
    assert price_of(node(memory=8), PRICES) is None


def test_nodes_are_charged_for_the_time_that_they_are_there() -> None:
    meter = CostMeter(PRICES)
    head, worker = node(CPU=8), node(CPU=8, GPU=1)
    meter.look([head], 0)
    meter.look([head, worker], 1 * HOUR)
    assert meter.total == pytest.approx(0.2 + 1.2)
    meter.look([head, {**worker, "Alive": False}], 3 * HOUR)
    assert meter.total == pytest.approx(0.2 + 1.2 + 2 * 0.2)


def test_a_resumed_run_goes_on_with_what_it_cost_before() -> None:
    meter = CostMeter(PRICES, 5.0)
    meter.look([node(CPU=8)], 7 * HOUR)
    assert meter.total == 5.0


def test_nodes_without_a_price_are_free_and_counted() -> None:
    meter = CostMeter({"GPU": 1.0})
    for hour in range(2):
        meter.look([node(CPU=8), node(GPU=1)], hour * HOUR)
    assert (meter.total, meter.num_unpriced) == (1.0, 1)


def test_a_price_is_not_below_nothing() -> None:
    with pytest.raises(ValidationError):
        CostConfig(node_hour={"GPU": -1})
