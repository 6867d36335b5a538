"""The canvas that organs and lesions are painted on: echo level, surfaces and attenuation, per grid point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.phantoms.view import Float, Shift, View

FLUID_DB = -45.0
"""Echo level of fluid: below every machine's dynamic range."""
_STAMP = 6


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

    def stamp(self, x_mm: float, z_mm: float, size_mm: float, amplitude: float) -> None:
        """Add a small bright reflector, a Gaussian with deviation ``size_mm``; outside the view nothing."""
        point = np.float32(x_mm), np.float32(z_mm)
        sample, beam = (int(round(float(v))) for v in self.view.to_grid(*map(np.asarray, point), self.shift))
        rows = slice(max(sample - _STAMP, 0), max(sample + _STAMP + 1, 0))
        columns = slice(max(beam - _STAMP, 0), max(beam + _STAMP + 1, 0))
        target = self.specular[rows, columns]
        if not target.size:
            return
        down = (np.arange(rows.start, rows.start + target.shape[0]) - sample) * self.view.sample_mm
        over = (np.arange(columns.start, columns.start + target.shape[1]) - beam) * self.view.beam_mm
        bump = np.exp(-0.5 * (np.square(down)[:, None] + np.square(over)) / size_mm**2)
        np.maximum(target, (amplitude * bump).astype(np.float32), out=target)

    def _knots(self, along_mm: float, across_mm: float) -> tuple[int, int]:
        """Enough knots for every shift within the scatterers' margin."""
        reach_mm = (self.view.num_samples + 100) * self.view.sample_mm
        width_mm = (self.view.num_beams + 120) * self.view.beam_mm
        return int(reach_mm / along_mm) + 8, int(width_mm / across_mm) + 8


def soft(distance_mm: Float, edge_mm: float) -> Float:
    """Inside (negative distance) 1, outside 0, with a linear edge of the given width."""
    return np.clip(0.5 - distance_mm / np.float32(edge_mm), 0, 1)


def ellipse(x: Float, z: Float, centre: tuple[float, float], axes: tuple[float, float], tilt: float = 0.0) -> Float:
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
