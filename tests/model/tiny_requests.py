"""Requests for tiny models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tests.model.tiny import IMAGE_TOKEN, NUM_WORDS, VISION_END, VISION_START

from sonoloop.model.generation import Prompt, Request, Sampling, Turn
from sonoloop.model.patches import PATCH_DIM, Patches

GREEDY = Sampling()


def request(
    seed: int, num_images: int, num_words: int, turns: Sequence[Turn], sampling: Sampling = GREEDY
) -> Request:
    """A prompt of noise and random words behind a beginning that all share; drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    grids = np.array([[1, 2 * rng.integers(1, 4), 2 * rng.integers(1, 4)] for _ in range(num_images)])
    grids = grids.reshape(-1, 3).astype(np.int64)
    ids = list(range(5, 25))  # the system prompt that all requests share
    for grid in grids:
        ids += [VISION_START, *[IMAGE_TOKEN] * int(grid.prod() // 4), VISION_END]
    ids += rng.integers(3, NUM_WORDS, num_words).tolist()
    patches = rng.normal(size=(int(grids.prod(axis=1).sum()), PATCH_DIM)).astype(np.float32)
    return Request(Prompt(ids, Patches(patches), grids), tuple(turns), sampling)
