"""Breast and thyroid under a linear array: layers, lobe, vessels, and where a lesion may lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sonoloop.platform.phantoms.lesion import Look
from sonoloop.platform.phantoms.tissue import FLUID_DB, Tissue, ellipse, soft
from sonoloop.platform.phantoms.view import FRAME_WIDTH, Float, View

Place = tuple[float, float, float, float]
"""``x, z, half width, half height`` of a lesion, mm."""


@dataclass(frozen=True)
class Breast:
    """Depths of the layers' borders, mm, and the seed of their details."""

    fat_mm: float
    gland_mm: float
    muscle_mm: float
    seed: int


@dataclass(frozen=True)
class Thyroid:
    """One lobe between trachea (on ``side``: -1 left, 1 right) and carotid artery; mm."""

    side: int
    lobe_x_mm: float
    lobe_z_mm: float
    lobe_axes_mm: tuple[float, float]
    seed: int


def draw_breast(rng: np.random.Generator, view: View, seed: int) -> Breast:
    """A breast whose layers fill the depth setting."""
    depth = view.depth_mm
    return Breast(
        fat_mm=float(rng.uniform(0.13, 0.22) * depth),
        gland_mm=float(rng.uniform(0.68, 0.76) * depth),
        muscle_mm=float(rng.uniform(0.8, 0.88) * depth),
        seed=seed,
    )


def place_in_breast(rng: np.random.Generator, view: View, look: Look) -> Place:
    """A place in the glandular layer with room behind for posterior features."""
    span = FRAME_WIDTH * view.pixel_mm / 2
    share = rng.uniform(0.18, 0.25) if look.proportion[0] > 1 else rng.uniform(0.24, 0.36)
    half_width = float(share * span)
    half_height = min(half_width * float(rng.uniform(*look.proportion)), 0.24 * view.depth_mm)
    half_width = min(half_width, half_height / look.proportion[0])
    reach = 0.5 * view.num_beams * view.pixel_mm - 1.9 * half_width - 1.5
    z = float(rng.uniform(0.36, 0.44) * view.depth_mm)
    return float(rng.uniform(-reach, reach)), z, half_width, half_height


def paint_breast(tissue: Tissue, breast: Breast) -> None:
    """Skin, subcutaneous fat with ligaments, gland, fascia and pectoral muscle."""
    rng, z = np.random.default_rng([breast.seed, 3]), tissue.z
    wave = tissue.texture(rng, 60.0, 9.0)
    lobules = tissue.texture(rng, 3.0, 7.0)
    tissue.fill(np.float32(1.0) + 0 * z, -4.0 + 1.2 * lobules)
    tissue.fill(0.6 * tissue.line(lobules * np.float32(0.8), 0.45), 7.0)  # Cooper's ligaments
    fibres = tissue.texture(rng, 0.7, 5.0)
    gland = soft(np.float32(breast.fat_mm) + 0.8 * wave - z, 0.8) * soft(z - np.float32(breast.gland_mm), 0.8)
    tissue.fill(gland, 3.5 + 1.6 * fibres)
    _muscle(tissue, rng, z - np.float32(breast.muscle_mm) - 0.4 * wave)
    _skin(tissue, 1.7)


def _muscle(tissue: Tissue, rng: np.random.Generator, depth: Float) -> None:
    """Muscle below ``depth`` 0: dark with long bright streaks under a bright fascia."""
    streaks = tissue.texture(rng, 0.6, 14.0)
    tissue.fill(soft(-depth, 0.5), -9.0 + 3.0 * streaks)
    tissue.fill(tissue.line(depth, 0.8), 11.0)


def _skin(tissue: Tissue, thickness_mm: float) -> None:
    """Two bright lines with a grey band between; above them the probe's gel."""
    z = tissue.z
    tissue.fill(soft(z - np.float32(thickness_mm), 0.3), 5.0)
    tissue.fill(tissue.line(z - np.float32(0.5), 0.7), 15.0)
    tissue.fill(tissue.line(z - np.float32(thickness_mm), 0.5), 13.0)
    tissue.fill(soft(z - np.float32(0.15), 0.3), -30.0)


def draw_thyroid(rng: np.random.Generator, view: View, seed: int) -> Thyroid:
    """A lobe that the depth setting shows whole."""
    depth = view.depth_mm
    return Thyroid(
        side=int(rng.choice((-1, 1))),
        lobe_x_mm=float(rng.uniform(-0.8, 0.8)),
        lobe_z_mm=float(rng.uniform(0.5, 0.54) * depth),
        lobe_axes_mm=(float(rng.uniform(12.5, 13.5)), float(rng.uniform(0.3, 0.33) * depth)),
        seed=seed,
    )


def place_in_thyroid(rng: np.random.Generator, view: View, look: Look, thyroid: Thyroid) -> Place:
    """A place inside the lobe, or across its anterior capsule where the look breaks it."""
    span, (wide, tall) = FRAME_WIDTH * view.pixel_mm / 2, thyroid.lobe_axes_mm
    is_tall = look.proportion[0] > 1
    half_width = float(span * (rng.uniform(0.15, 0.2) if is_tall else rng.uniform(0.2, 0.3)))
    half_height = min(half_width * float(rng.uniform(*look.proportion)), 0.78 * tall)
    half_width = min(half_width, half_height / look.proportion[0])
    x = thyroid.lobe_x_mm + float(rng.uniform(-0.75, 0.75)) * max(wide - half_width - 2.5, 0.5) * 0.8
    if look.breaks_capsule:
        surface = tall * float(np.sqrt(1 - ((x - thyroid.lobe_x_mm) / wide) ** 2))
        return x, thyroid.lobe_z_mm - surface + 0.3 * half_height, half_width, half_height
    slack = max(tall * 0.93 - half_height, 0.0) * 0.4
    return x, thyroid.lobe_z_mm + float(rng.uniform(-slack, slack)), half_width, half_height


def paint_thyroid(tissue: Tissue, thyroid: Thyroid) -> None:
    """Skin, strap muscles, the lobe with its capsule, trachea, carotid and the muscle behind."""
    rng, x, z = np.random.default_rng([thyroid.seed, 3]), tissue.x, tissue.z
    tissue.fill(np.float32(1.0) + 0 * z, -3.0 + 2.0 * tissue.texture(rng, 0.8, 6.0))
    top = np.float32(thyroid.lobe_z_mm - thyroid.lobe_axes_mm[1])
    streaks = tissue.texture(rng, 0.6, 9.0)
    straps = soft(top - np.float32(3.4) - z, 0.4) * soft(z - top - np.float32(8.0), 0.6)
    tissue.fill(straps, -11.0 + 2.5 * streaks)
    tissue.fill(tissue.line(z - top + np.float32(3.4), 0.6), 8.0)
    bottom = np.float32(thyroid.lobe_z_mm + thyroid.lobe_axes_mm[1])
    _muscle(tissue, rng, z - bottom - np.float32(1.2))
    lobe = ellipse(x, z, (thyroid.lobe_x_mm, thyroid.lobe_z_mm), thyroid.lobe_axes_mm)
    tissue.fill(soft(lobe, 0.4), 4.0 + 0.7 * tissue.texture(rng, 1.0, 1.0))
    tissue.fill(0.9 * tissue.line(lobe, 0.9), 12.0)
    _trachea(tissue, thyroid)
    carotid = ellipse(x, z, (-thyroid.side * 17.0, thyroid.lobe_z_mm + 1.0), (3.0, 3.0))
    tissue.fill(soft(carotid - np.float32(0.6), 0.3), 9.0)
    tissue.fill(soft(carotid, 0.3), FLUID_DB)
    _skin(tissue, 1.5)


def _trachea(tissue: Tissue, thyroid: Thyroid) -> None:
    """Cartilage, then air: a bright arc with fading echoes of itself and a dirty shadow."""
    centre = thyroid.side * 20.0, thyroid.lobe_z_mm + 3.0
    distance = ellipse(tissue.x, tissue.z, centre, (7.5, 9.0))
    near = np.clip((np.float32(centre[1]) - tissue.z) / 5 + 0.4, 0, 1)
    tissue.fill(soft(distance, 0.4), -20.0)
    for echo, level_db in enumerate((15.0, 4.0, -4.0, -10.0)):
        tissue.fill(0.9 * near * tissue.line(distance + np.float32(1.9 * echo), 0.9), level_db)
