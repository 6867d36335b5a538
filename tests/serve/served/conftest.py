"""One served door for all callers; after each that means harm it must be alive and no heavier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from served.door import Door, peak_of, served_door
from sonoloop.serve.config import ServeConfig, WireConfig

MAX_GROWTH_MB = 400
"""More than a few bodies of 20 MB on their way, far less than any bomb unpacked."""
CONFIG = ServeConfig(
    max_ongoing=1,
    max_queued=0,
    max_images=2,
    max_tokens=900,
    body_timeout_s=2,
    wire=WireConfig(head_timeout_s=1, max_connections=200),
)


@pytest.fixture(scope="package")
def served_to_all(
    ray_cluster: str, untrained_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    with served_door(untrained_folder, tmp_path_factory.mktemp("served"), CONFIG) as door:
        assert door.is_alive()
        yield door


@pytest.fixture
def door(served_to_all: Door) -> Iterator[Door]:
    """The door, whose processes outlive the test and never weigh much more than before it."""
    assert len(served_to_all.processes) == 2
    before = served_to_all.rss_mb()
    with peak_of(served_to_all) as peak:
        yield served_to_all
    assert served_to_all.is_alive()
    assert all(process.is_running() for process in served_to_all.processes), "one was replaced"
    assert max(peak) - before < MAX_GROWTH_MB
