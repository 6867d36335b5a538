"""What Prometheus would read of the session's Ray."""

from __future__ import annotations

import re
import time

import httpx
import ray

SCRAPE_WITHIN_S = 300


def scraped(*wanted: str) -> str:
    """The endpoint of the node, once it tells of all that is wanted; workers report every second.

    Args:
        wanted: Regular expressions.
    """
    (node,) = ray.nodes()
    deadline = time.monotonic() + SCRAPE_WITHIN_S
    while True:
        place = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        text = httpx.get(f"http://{place}/metrics", timeout=60).text
        if all(re.search(pattern, text) for pattern in wanted) or time.monotonic() > deadline:
            return text
        time.sleep(0.5)
