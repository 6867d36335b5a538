"""Patches that no image is cut into."""

from __future__ import annotations

import numpy as np

from sonoloop.model.patches import Patches


def cut_short(patches: Patches) -> Patches:
    """One patch too few."""
    return Patches(patches.values[:-1], patches.levels)


def not_numbers(patches: Patches) -> Patches:
    """Somebody's own normalisation that went wrong."""
    return Patches(np.full(patches.normalised().shape, np.nan, dtype=np.float32))
