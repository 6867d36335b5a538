"""What a run costs: the prices of the cluster's nodes over the time that they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def price_of(node: Mapping[str, Any], prices: Mapping[str, float]) -> float | None:
    """Price of a node per hour: that of the first key which it has; None where it has none of them.

    Args:
        node: One of ``ray.nodes()``.
        prices: A resource's name (``GPU``, ``accelerator_type:H100``) or label (``ray.io/market-type=spot``)
            to the price of a whole node that has it.
    """
    labels = {f"{name}={value}" for name, value in node.get("Labels", {}).items()}
    held = labels | {name for name, amount in node.get("Resources", {}).items() if amount > 0}
    return next((price for key, price in prices.items() if key in held), None)


class CostMeter:
    """Adds up what the nodes cost from one look at them to the next, as they come and go.

    Args:
        prices: As `price_of` takes them.
        before: What the run cost before.
    """

    def __init__(self, prices: Mapping[str, float], before: float = 0.0) -> None:
        self._prices = prices
        self._last: float | None = None
        self.total = before
        self.num_unpriced = 0

    def look(self, nodes: Sequence[Mapping[str, Any]], now_s: float) -> None:
        """Charge the time since the last look to the nodes that are alive now."""
        found = [price_of(node, self._prices) for node in nodes if node["Alive"]]
        self.num_unpriced = found.count(None)
        if self._last is not None:
            self.total += sum(filter(None, found)) * (now_s - self._last) / 3600
        self._last = now_s
