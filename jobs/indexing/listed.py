"""Which objects were listed, kept by an actor: 8 bytes each, and none of them in the driver."""

from __future__ import annotations

import numpy as np
import ray
from numpy.typing import NDArray


@ray.remote(num_cpus=0)
class Listed:
    """Gathers `uri_hashes` of pages; a page may be added twice."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Note a page."""
        self._hashes.append(hashes)

    def all(self) -> NDArray[np.uint64]:
        """All of them, sorted, each once."""
        return np.unique(np.concatenate(self._hashes or [np.array([], np.uint64)]))

    def count(self) -> int:
        """Number of different objects."""
        return len(self.all())
