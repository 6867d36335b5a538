"""Liver and kidney under a curved array: wall, parenchyma, vessels, collecting system, and lesion places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sonoloop.platform.lexicon import KidneyEntities, LiverEntities
from sonoloop.platform.phantoms.lesion import Look
from sonoloop.platform.phantoms.small_parts import Place
from sonoloop.platform.phantoms.tissue import FLUID_DB, Tissue, ellipse, soft
from sonoloop.platform.phantoms.view import FRAME_WIDTH, Float, View

WALL_MM = 13.0
STEATOSIS_DB = 6.0
STEATOSIS_LOSS_DB_CM = 2.0


Vessel = tuple[float, float, float, float, float]
"""``x0, z0, x1, z1, radius``, mm."""


@dataclass(frozen=True)
class Liver:
    """Background of the liver; the kidney's edge shows on ``kidney_side`` (-1 left, 1 right)."""

    parenchyma: str
    vessels_mm: tuple[Vessel, ...]
    kidney_side: int
    seed: int


@dataclass(frozen=True)
class Kidney:
    """One kidney cut lengthwise: centre, semi-axes (mm) and tilt (radians)."""

    is_dilated: bool
    x_mm: float
    z_mm: float
    axes_mm: tuple[float, float]
    tilt: float
    seed: int


def draw_liver(
    rng: np.random.Generator, view: View, entities: LiverEntities, place: Place | None, seed: int
) -> Liver:
    """Vessels that keep clear of the lesion."""
    vessels: list[Vessel] = []
    for _ in range(24):
        x0, z0 = rng.uniform(-45, 45), rng.uniform(0.35, 0.85) * view.depth_mm
        turn, length = rng.uniform(-0.9, 0.9), rng.uniform(22, 45)
        x1, z1 = x0 + length * np.cos(turn), z0 + length * np.sin(turn)
        radius = rng.uniform(2.2, 3.8)
        if len(vessels) < 3 and _is_clear(place, (x0, z0), (x1, z1)) and z1 < 0.85 * view.depth_mm:
            vessels.append((float(x0), float(z0), float(x1), float(z1), float(radius)))
    side = 1 if place is None or place[0] < 0 else -1
    return Liver(entities.parenchyma, tuple(vessels), side, seed)


def _is_clear(place: Place | None, start: tuple[float, float], end: tuple[float, float]) -> bool:
    if place is None:
        return True
    steps = np.linspace(0, 1, 9)
    x, z = start[0] + steps * (end[0] - start[0]), start[1] + steps * (end[1] - start[1])
    return bool(np.hypot(x - place[0], z - place[1]).min() > max(place[2], place[3]) * 1.25 + 7)


def place_in_liver(rng: np.random.Generator, view: View, look: Look) -> Place:
    """A place with parenchyma on all sides."""
    half_width = float(FRAME_WIDTH * view.pixel_mm / 2 * rng.uniform(0.16, 0.26))
    half_height = half_width * float(rng.uniform(*look.proportion))
    z = float(rng.uniform(0.42, 0.52) * view.depth_mm)
    reach = 0.8 * (z + view.radius_mm) * np.sin(view.beam_step * view.num_beams / 2) - 1.2 * half_width
    return float(rng.uniform(-reach, reach)), z, half_width, half_height


def paint_liver(tissue: Tissue, liver: Liver) -> None:
    """Abdominal wall, parenchyma of the given kind, vessels, the right kidney's edge and the diaphragm."""
    rng, x, z = np.random.default_rng([liver.seed, 3]), tissue.x, tissue.z
    fatty, coarse = liver.parenchyma == "increased echogenicity", liver.parenchyma == "coarse"
    grain = tissue.texture(rng, 3.0, 3.4)
    level_db: Float | float = STEATOSIS_DB if fatty else 0.5 * grain
    if coarse:
        level_db = -1.0 + 6.0 * np.clip(grain, -1.4, 1.4)
    tissue.fill(np.float32(1.0) + 0 * z, level_db)
    _renal_edge(tissue, liver)
    for number, vessel in enumerate(liver.vessels_mm):
        _vessel(tissue, vessel, has_wall=number == 0 and not fatty, level_db=-9.0 if fatty else FLUID_DB)
    depth_mm = tissue.view.depth_mm
    dome = ellipse(x, z, (0.0, 0.25 * depth_mm), (1.5 * depth_mm, 0.68 * depth_mm))
    tissue.fill(soft(-dome, 1.0), -13.0)
    tissue.fill((0.35 if fatty else 1.0) * tissue.line(dome, 3.2), 17.0)
    if fatty:
        tissue.loss_db += np.float32(STEATOSIS_LOSS_DB_CM * tissue.view.sample_mm / 10)
    _wall(tissue, rng, bump_mm=1.8 if coarse else 0.0)


def _vessel(tissue: Tissue, vessel: Vessel, *, has_wall: bool, level_db: float) -> None:
    x0, z0, x1, z1, radius = vessel
    length = float(np.hypot(x1 - x0, z1 - z0))
    cos, sin = np.float32((x1 - x0) / length), np.float32((z1 - z0) / length)
    dx, dz = tissue.x - np.float32(x0), tissue.z - np.float32(z0)
    along = np.clip(dx * cos + dz * sin, 0, length)
    apart = np.hypot(dx - along * cos, dz - along * sin) - np.float32(radius) * (1 - 0.5 * along / length)
    if has_wall:
        tissue.fill(0.8 * tissue.line(apart - np.float32(0.8), 2.4), 11.0)
    tissue.fill(soft(apart, 0.8), level_db)


def _renal_edge(tissue: Tissue, liver: Liver) -> None:
    """Kidney cortex beside the liver, against which its echogenicity is judged."""
    depth_mm = tissue.view.depth_mm
    distance = ellipse(
        tissue.x,
        tissue.z,
        (liver.kidney_side * 0.5 * depth_mm, 0.74 * depth_mm),
        (27.0, 13.0),
        -0.5 * liver.kidney_side,
    )
    tissue.fill(0.9 * tissue.line(distance - 1.0, 2.4), 10.0)
    tissue.fill(soft(distance, 0.8), -5.0)
    tissue.fill(soft(distance + np.float32(7.0), 1.5), 9.0)


def _wall(tissue: Tissue, rng: np.random.Generator, bump_mm: float) -> None:
    """Skin, fat and muscle of the abdominal wall; the border to the organ may be nodular."""
    z = np.broadcast_to(tissue.z, tissue.level_db.shape)
    border = z - np.float32(WALL_MM)
    if bump_mm:
        border = border - bump_mm * np.abs(tissue.texture(rng, 80.0, 5.0))
    streaks = tissue.texture(rng, 1.0, 22.0)
    tissue.fill(soft(border, 1.0), -7.0 + 3.0 * streaks)
    tissue.fill(soft(z - np.float32(6.0), 1.0), 1.0 + 3.0 * streaks)
    tissue.fill(tissue.line(border, 1.6), 12.0)
    tissue.fill(tissue.line(z - np.float32(6.0), 1.2), 9.0)
    tissue.fill(soft(z - np.float32(2.0), 1.0), 12.0)


def draw_kidney(rng: np.random.Generator, view: View, entities: KidneyEntities, seed: int) -> Kidney:
    """A kidney that the depth setting shows whole."""
    return Kidney(
        is_dilated=entities.collecting_system == "dilated",
        x_mm=float(rng.uniform(-4, 4)),
        z_mm=float(rng.uniform(0.5, 0.54) * view.depth_mm),
        axes_mm=(float(rng.uniform(47, 52)), float(rng.uniform(0.225, 0.25) * view.depth_mm)),
        tilt=float(rng.uniform(-0.18, 0.18)),
        seed=seed,
    )


def place_in_kidney(rng: np.random.Generator, view: View, look: Look, kidney: Kidney) -> Place:
    """A stone in the sinus; anything else in the cortex, bulging, in the anterior half or at a pole."""
    span = FRAME_WIDTH * view.pixel_mm / 2
    if look.inside == "calculus":
        half_width = float(span * rng.uniform(0.14, 0.19))
        x = kidney.x_mm + float(rng.uniform(-14, 14))
        return x, kidney.z_mm + 1.0, half_width, half_width * float(rng.uniform(*look.proportion))
    half_width = float(span * rng.uniform(0.16, 0.21))
    turn = float(rng.choice((-1, 1)) * rng.uniform(0.75, 1.2)) - np.pi / 2
    u, v = 0.8 * kidney.axes_mm[0] * np.cos(turn), 0.72 * kidney.axes_mm[1] * np.sin(turn)
    x = kidney.x_mm + u * np.cos(kidney.tilt) - v * np.sin(kidney.tilt)
    z = kidney.z_mm + u * np.sin(kidney.tilt) + v * np.cos(kidney.tilt)
    return float(x), float(z), half_width, half_width * float(rng.uniform(*look.proportion))


def paint_kidney(tissue: Tissue, kidney: Kidney) -> None:
    """Abdominal wall, fat, cortex with pyramids, echogenic sinus, and urine where it is dilated."""
    rng, x, z = np.random.default_rng([kidney.seed, 3]), tissue.x, tissue.z
    tissue.fill(np.float32(1.0) + 0 * z, -0.5 + 2.0 * tissue.texture(rng, 3.0, 9.0))
    cos, sin = np.float32(np.cos(kidney.tilt)), np.float32(np.sin(kidney.tilt))
    dx, dz = x - np.float32(kidney.x_mm), z - np.float32(kidney.z_mm)
    u = (dx * cos + dz * sin) / np.float32(kidney.axes_mm[0])
    v = (dz * cos - dx * sin) / np.float32(kidney.axes_mm[1])
    reach = np.sqrt(u * u + v * v)
    scale = np.float32(kidney.axes_mm[1])
    tissue.fill(tissue.line((reach - 1) * scale - 0.6, 2.4), 14.0)
    tissue.fill(soft((reach - 1) * scale, 0.8), -4.0)
    angle = np.arctan2(v, u)
    pyramids = soft((np.abs(reach - 0.66) - 0.13) * scale, 1.5) * np.clip(
        np.cos(9 * angle + rng.uniform(0, 6)) * 3, 0, 1
    )
    tissue.fill(pyramids, -11.0)
    sinus = np.sqrt(np.square(u / 0.58) + np.square(v / 0.46))
    ragged = sinus + 0.1 * tissue.texture(rng, 4.0, 5.0)
    tissue.fill(soft((ragged - 1) * scale * 0.5, 1.5), 8.0)
    if kidney.is_dilated:
        urine = _urine(u, v, scale, rng)
        tissue.fill(urine, FLUID_DB)
        tissue.loss_db -= np.float32(0.12) * urine
    _wall(tissue, rng, bump_mm=0.0)


def _urine(u: Float, v: Float, scale: np.float32, rng: np.random.Generator) -> Float:
    """The dilated system, 0..1: a pelvis in the middle and calyces that open into it."""
    parts = [np.sqrt(np.square(u / 0.25) + np.square(v / 0.27)) * np.float32(0.25) - np.float32(0.25)]
    for place in (-0.44, -0.27, 0.27, 0.44):
        for side in (-1, 1):
            du, dv = u - np.float32(place), (v - np.float32(side * rng.uniform(0.18, 0.28))) * np.float32(0.5)
            parts.append(np.sqrt(du * du + dv * dv) - np.float32(rng.uniform(0.085, 0.12)))
    neck = np.maximum(np.abs(v) - np.float32(0.1), (np.abs(u) - np.float32(0.42)))
    parts.append(neck)
    return soft(np.minimum.reduce(parts) * scale * 1.5, 1.2)
