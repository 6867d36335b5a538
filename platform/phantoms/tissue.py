"""The canvas that organs and lesions are painted on: echo level, surfaces and attenuation, per grid point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.phantoms.view import Float, Shift, View

FLUID_DB = -45.0
"""Echo level of fluid: below every machine's dynamic range."""


class Tissue:
    """What lies under the probe at one shift. All arrays ``(S, B)`` float32, mutable.

    ``level_db`` is echo strength against average soft tissue, ``specular`` a coherent amplitude,
    ``loss_db`` the extra two-way attenuation that each grid step adds to everything deeper.
    """

    def __init__(self, view: View, shift: Shift) -> None:
        self.view = view
        self.shift = shift
        self.x, self.z = view.coordinates(shift)
        shape = (view.num_samples, view.num_beams)
        self.level_db = np.zeros(shape, dtype=np.float32)
        self.specular = np.zeros(shape, dtype=np.float32)
        self.loss_db = np.zeros(shape, dtype=np.float32)

    def fill(self, mask: Float, level_db: Float | float) -> None:
        """Move the level towards ``level_db`` by ``mask`` (0..1, broadcastable)."""
        self.level_db += mask * (level_db - self.level_db)

    def texture(self, rng: np.random.Generator, along_mm: float, across_mm: float) -> Float:
        """Smooth noise ``(S, B)`` with grain of the given sizes, about zero mean and unit deviation.

        It belongs to the tissue: the same generator state gives the same texture at every shift.
        """
        along_S, across_B = self.view.axes(self.shift)
        rows, columns = self._knots(along_mm, across_mm)
        knots = rng.standard_normal((rows, columns)).astype(np.float32)
        weights_Sr = _hat_weights(along_S / np.float32(along_mm) + 4, rows)
        weights_Bc = _hat_weights(across_B / np.float32(across_mm) + columns / 2, columns)
        return 1.5 * (weights_Sr @ knots @ weights_Bc.T)

    def line(self, depth: Float, thickness_mm: float) -> Float:
        """A soft line ``(S, B)``, 0..1, where ``depth`` (signed distance, mm) passes through zero."""
        return np.clip(1.5 - np.abs(depth) * np.float32(3 / thickness_mm), 0, 1)

    def stamp(self, x_mm: float, z_mm: float, size_mm: float, amplitude: float, loss_db: float = 0.0) -> None:
        """Add a bright reflector, a Gaussian of deviation ``size_mm``; outside the view nothing happens.

        Args:
            x_mm: Where, to the right of the probe's middle.
            z_mm: Where, below the probe's face.
            size_mm: Standard deviation in both directions.
            amplitude: Coherent amplitude at its middle; soft tissue has 1.
            loss_db: Shadow that it throws at its middle, two-way.
        """
        rows, columns, down_S, over_B = self._around(x_mm, z_mm, 3 * size_mm)
        if not len(down_S) or not len(over_B):
            return
        bump = np.exp(-0.5 * (np.square(down_S)[:, None] + np.square(over_B)) / size_mm**2).astype(np.float32)
        target = self.specular[rows, columns]
        np.maximum(target, amplitude * bump, out=target)
        per_step = loss_db * self.view.sample_mm / (size_mm * np.sqrt(2 * np.pi))
        self.loss_db[rows, columns] += per_step * bump

    def _around(self, x_mm: float, z_mm: float, reach_mm: float) -> tuple[slice, slice, Float, Float]:
        """Grid window about a point and its offsets from it in mm, ``(rows,)`` and ``(columns,)``."""
        sample, beam = self.view.to_grid(np.array([x_mm]), np.array([z_mm]), self.shift)
        half = int(reach_mm / self.view.sample_mm) + 1, int(reach_mm / self.view.beam_mm) + 1
        rows, columns = (
            slice(
                min(max(round(float(place[0])) - reach, 0), size), max(round(float(place[0])) + reach + 1, 0)
            )
            for place, reach, size in zip((sample, beam), half, self.level_db.shape, strict=True)
        )
        down_S = (np.arange(self.level_db.shape[0])[rows] - sample) * self.view.sample_mm
        over_B = (np.arange(self.level_db.shape[1])[columns] - beam) * self.view.beam_mm
        return rows, columns, down_S.astype(np.float32), over_B.astype(np.float32)

    def _knots(self, along_mm: float, across_mm: float) -> tuple[int, int]:
        """Enough knots for every shift within the scatterers' margin."""
        reach_mm = (self.view.num_samples + 100) * self.view.sample_mm
        width_mm = (self.view.num_beams + 120) * self.view.beam_mm
        return int(reach_mm / along_mm) + 8, int(width_mm / across_mm) + 8


def soft(distance_mm: Float, edge_mm: float) -> Float:
    """Inside (negative distance) 1, outside 0, with a linear edge of the given width."""
    return np.clip(0.5 - distance_mm / np.float32(edge_mm), 0, 1)


def ellipse(
    x: Float, z: Float, centre: tuple[float, float], axes: tuple[float, float], tilt: float = 0.0
) -> Float:
    """Approximate signed distance, mm, to an ellipse with semi-axes ``axes`` tilted by ``tilt`` radians."""
    dx, dz = x - np.float32(centre[0]), z - np.float32(centre[1])
    cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    u = (dx * cos + dz * sin) / np.float32(axes[0])
    v = (dz * cos - dx * sin) / np.float32(axes[1])
    return (np.sqrt(u * u + v * v) - 1) * np.float32(min(axes))


def _hat_weights(position_N: Float, num_knots: int) -> NDArray[np.float32]:
    """Interpolation weights ``(N, num_knots)``, smooth between neighbouring knots."""
    left_N = np.clip(np.floor(position_N).astype(np.int64), 0, num_knots - 2)
    t_N = np.clip(position_N - left_N, 0, 1)
    t_N = t_N * t_N * (3 - 2 * t_N)
    weights = np.zeros((len(position_N), num_knots), dtype=np.float32)
    rows = np.arange(len(position_N))
    weights[rows, left_N] = 1 - t_N
    weights[rows, left_N + 1] = t_N
    return weights
