"""From tissue to a picture: scatterers through a depth-dependent point spread function, then compression.

Each grid cell holds many unresolved scatterers, so its echo is a circular complex Gaussian whose standard
deviation is the tissue's amplitude; the envelope of the filtered field is then Rayleigh distributed
(mean over standard deviation 1.91). Source: Wagner et al., IEEE Trans Sonics Ultrason 1983;30:156-163,
doi 10.1109/T-SU.1983.31404. Shape letters: S samples, B beams.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.phantoms.scanners import Acquisition, Machine
from sonoloop.platform.phantoms.view import Float, Shift, View

MARGIN = 48
"""Grid cells of scatterers kept beyond each edge: the farthest a shift may reach."""
ATTENUATION_DB_CM_MHZ = 0.5
"""Soft tissue, one way. Source: AIUM/NEMA derating convention 0.3, tissue average 0.5-0.7."""
NUM_GREYS = 1024
POOL_SEED = 19830530
POOL_SHAPE = (2048, 2048)
"""Scatterers that all cases share, 34 MB per process."""


def envelope(
    amplitude_SB: Float, specular_SB: Float, acquisition: Acquisition, seed: int, shift: Shift
) -> Float:
    """Echo envelope ``(S, B)``, float32: mean square 1 where the amplitude is 1, one value per look averaged.

    Args:
        amplitude_SB: Standard deviation of the scatterers' echo, >= 0.
        specular_SB: Coherent echo of surfaces and calcifications, added before filtering.
        acquisition: Machine and view.
        seed: Names the scatterers; the same seed with another shift shows the same tissue moved.
        shift: (samples, beams), each within `MARGIN`.
    """
    machine, view = acquisition.machine, acquisition.view
    transfer_SB, gain_S1 = _lateral_filter(view, machine, acquisition.focus)
    total = np.zeros((view.num_samples, view.num_beams), dtype=np.float32)
    for look in range(machine.looks):
        canvas = _scatterers(seed, look, view.num_samples, view.num_beams)
        rows = slice(MARGIN + shift[0], MARGIN + shift[0] + view.num_samples)
        columns = slice(MARGIN + shift[1], MARGIN + shift[1] + view.num_beams)
        field_SB = canvas[rows, columns] * amplitude_SB + specular_SB
        field_SB = _convolve_axially(field_SB, machine.pulse_px)
        field_SB = np.fft.ifft(np.fft.fft(field_SB, axis=1) * transfer_SB, axis=1)
        total += np.abs(field_SB)
    return total * (gain_S1 / machine.looks)


def compress(envelope_SB: Float, attenuation_SB: Float, acquisition: Acquisition) -> Float:
    """Attenuate, add noise, correct by time gain, and map decibels to grey 0..1, float32 ``(S, B)``.

    Args:
        envelope_SB: From `envelope`.
        attenuation_SB: Decibels lost on the way (both ways) beyond the tissue average; negative is gain.
        acquisition: Gain, dynamic range, noise and the machine's grey map.
    """
    depth_cm_S1 = np.linspace(0, acquisition.view.depth_mm / 10, envelope_SB.shape[0], dtype=np.float32)[
        :, None
    ]
    time_gain_S1 = 2 * ATTENUATION_DB_CM_MHZ * acquisition.centre_mhz * depth_cm_S1
    noise_S1 = acquisition.noise_db + time_gain_S1 * (14 / time_gain_S1[-1])
    loss_SB = attenuation_SB + acquisition.attenuation_db * depth_cm_S1
    power = np.square(envelope_SB) * np.exp(loss_SB * np.float32(-np.log(10) / 10))
    power += np.power(10, noise_S1 / 10, dtype=np.float32)
    level_db = 10 * np.log10(power) + acquisition.gain_db
    grey_SB = np.clip(0.5 + level_db / acquisition.dynamic_range_db, 0, 1)
    if acquisition.machine.sharpen:
        grey_SB = _sharpen(grey_SB, acquisition.machine.sharpen)
    mapped_SB: Float = _grey_map(acquisition.machine)[(grey_SB * (NUM_GREYS - 1)).astype(np.int32)]
    return mapped_SB


def _scatterers(seed: int, look: int, num_samples: int, num_beams: int) -> NDArray[np.complex64]:
    """Unit-variance complex Gaussians ``(S + 2 MARGIN, B + 2 MARGIN)``: a window of the pool chosen by seed.

    Cutting from a pool costs nothing, drawing anew 5 ms of a 20 ms frame (one core of a 2-core machine).
    """
    pool = _pool()
    size = num_samples + 2 * MARGIN, num_beams + 2 * MARGIN
    rng = np.random.default_rng([seed, look, 5])
    row, column = (int(rng.integers(have - need + 1)) for have, need in zip(pool.shape, size, strict=True))
    return pool[row : row + size[0], column : column + size[1]]


@lru_cache(maxsize=1)
def _pool() -> NDArray[np.complex64]:
    rng = np.random.Generator(np.random.SFC64(POOL_SEED))
    pairs = rng.standard_normal((*POOL_SHAPE, 2), dtype=np.float32)
    field = (pairs * np.float32(np.sqrt(0.5))).view(np.complex64)[..., 0]
    field.flags.writeable = False
    return field


@lru_cache(maxsize=32)
def _lateral_filter(view: View, machine: Machine, focus: float) -> tuple[Float, Float]:
    """Transfer function across beams ``(S, B)`` and the gain ``(S, 1)`` that keeps the mean square at 1.

    The beam is narrowest at the focus and widens away from it.
    """
    depth_S = np.linspace(0, 1, view.num_samples)
    sigma_S = machine.beam_px * (1 + 1.6 * np.abs(depth_S - focus))
    frequency_B = 2 * np.pi * np.fft.fftfreq(view.num_beams)
    transfer_SB = np.exp(-0.5 * np.square(sigma_S[:, None] * frequency_B))
    energy_S = np.mean(np.square(transfer_SB), axis=1) * np.sum(np.square(_pulse(machine.pulse_px)))
    return transfer_SB.astype(np.float32), (1 / np.sqrt(energy_S)).astype(np.float32)[:, None]


def _pulse(sigma_px: float) -> NDArray[np.float64]:
    half = int(np.ceil(2.5 * sigma_px))
    return np.exp(-0.5 * np.square(np.arange(-half, half + 1) / sigma_px))


def _convolve_axially(field_SB: NDArray[np.complex64], sigma_px: float) -> NDArray[np.complex64]:
    taps = _pulse(sigma_px).astype(np.float32)
    half = len(taps) // 2
    padded = np.pad(field_SB, ((half, half), (0, 0)))
    result: NDArray[np.complex64] = taps[half] * field_SB
    for offset in range(1, half + 1):
        num = len(field_SB)
        result += taps[half + offset] * (
            padded[half - offset : half - offset + num] + padded[half + offset : half + offset + num]
        )
    return result


def _sharpen(grey_SB: Float, amount: float) -> Float:
    blurred = grey_SB.copy()
    blurred[1:-1] = (grey_SB[:-2] + grey_SB[1:-1] + grey_SB[2:]) / 3
    sharpened: Float = np.clip(grey_SB + amount * (grey_SB - blurred), 0, 1)
    return sharpened


@lru_cache(maxsize=8)
def _grey_map(machine: Machine) -> Float:
    """Grey in to grey out, both 0..1: a gamma mixed with an S-shaped curve."""
    grey = np.linspace(0, 1, NUM_GREYS)
    curve = grey * grey * (3 - 2 * grey)
    table: Float = ((1 - machine.contrast) * grey + machine.contrast * curve) ** machine.gamma
    return table.astype(np.float32)
