"""Painting a lesion onto the tissue: body, border, contents, echogenic foci, what it does to the beam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sonoloop.platform.phantoms.lesion import NUM_ANGLES, Lesion
from sonoloop.platform.phantoms.tissue import FLUID_DB, Tissue, soft
from sonoloop.platform.phantoms.view import Float

SHADOW_DB = 22.0
CALCULUS_SHADOW_DB = 34.0
ENHANCEMENT_DB = -11.0


@dataclass(frozen=True)
class Patch:
    """The part of the grid that holds a lesion; ``level_db`` and ``loss_db`` are views into the tissue.

    ``u`` and ``v`` are offsets in semi-axes, ``body`` and ``full`` signed distances in mm to the outline
    without and with spicules, ``inside`` is 1 in the body and 0 outside.
    """

    rows: slice
    columns: slice
    u: Float
    v: Float
    body: Float
    full: Float
    inside: Float
    level_db: Float
    specular: Float
    loss_db: Float
    pixel_mm: float

    def fill(self, mask: Float, level_db: Float | float) -> None:
        """Move the level towards ``level_db`` by ``mask``."""
        self.level_db[...] += mask * (level_db - self.level_db)


def paint_lesion(tissue: Tissue, lesion: Lesion) -> None:
    """Draw the lesion; the tissue around it must have been painted before."""
    patch = _patch(tissue, lesion)
    if patch.inside.size == 0:
        return
    rng = np.random.default_rng([lesion.seed, 2])
    _border(patch, lesion)
    _contents(tissue, patch, lesion, rng)
    _beam(patch, lesion)
    _foci(tissue, patch, lesion, rng)


def _patch(tissue: Tissue, lesion: Lesion) -> Patch:
    rows, columns = _window(tissue, lesion)
    x, z = (np.broadcast_to(axis, tissue.level_db.shape)[rows, columns] for axis in (tissue.x, tissue.z))
    u = (x - np.float32(lesion.x_mm)) / np.float32(lesion.half_width_mm)
    v = (z - np.float32(lesion.z_mm)) / np.float32(lesion.half_height_mm)
    reach, turn = np.sqrt(u * u + v * v), np.arctan2(v, u) * np.float32(NUM_ANGLES / (2 * np.pi))
    index = (turn + NUM_ANGLES // 2).astype(np.int32) % NUM_ANGLES
    radius_mm, pixel_mm = np.float32(lesion.radius_mm), tissue.view.pixel_mm
    body, full = ((reach - table_P[index]) * radius_mm for table_P in lesion.outline())
    edge_mm = 0.95 * lesion.radius_mm if lesion.look.outline == "soft" else 2.5 * pixel_mm
    return Patch(
        rows=rows,
        columns=columns,
        u=u,
        v=v,
        body=body,
        full=full,
        inside=soft(full, edge_mm),
        level_db=tissue.level_db[rows, columns],
        specular=tissue.specular[rows, columns],
        loss_db=tissue.loss_db[rows, columns],
        pixel_mm=pixel_mm,
    )


def _window(tissue: Tissue, lesion: Lesion) -> tuple[slice, slice]:
    """Rows and columns of the grid that the lesion and its border can touch."""
    x_P, z_P = lesion.contour()
    reach = 1.9 if lesion.look.outline == "spiculated" else 1.5
    sample_P, beam_P = tissue.view.to_grid(
        lesion.x_mm + reach * (x_P - lesion.x_mm), lesion.z_mm + reach * (z_P - lesion.z_mm), tissue.shift
    )
    shape = tissue.level_db.shape
    rows, columns = (
        slice(int(np.clip(place.min(), 0, size)), int(np.clip(place.max() + 2, 0, size)))
        for place, size in zip((sample_P, beam_P), shape, strict=True)
    )
    return rows, columns


def _ring(patch: Patch, offset_px: float, thickness_px: float) -> Float:
    """1 on a line at ``offset_px`` outside the outline, 0 away from it."""
    apart = np.abs(patch.full - np.float32(offset_px * patch.pixel_mm))
    ring: Float = np.clip(1.5 - apart * np.float32(3 / (thickness_px * patch.pixel_mm)), 0, 1)
    return ring


def _border(patch: Patch, lesion: Lesion) -> None:
    look = lesion.look
    if look.outline == "spiculated":  # the echogenic halo of a desmoplastic reaction
        near = soft(patch.body - np.float32(0.4 * lesion.radius_mm), 0.5 * lesion.radius_mm)
        patch.fill(0.8 * near, 7.0)
    if look.has_halo:
        patch.fill(0.95 * _ring(patch, 4.0, 12.0), -20.0)
    elif look.outline == "smooth" and look.inside != "calculus":
        patch.fill(0.7 * _ring(patch, 2.5, 5.0), 8.0)


def _contents(tissue: Tissue, patch: Patch, lesion: Lesion, rng: np.random.Generator) -> None:
    look, radius = lesion.look, lesion.radius_mm
    match look.inside:
        case "uniform" | "fluid":
            patch.fill(patch.inside, look.level_db)
        case "heterogeneous":
            grain = tissue.texture(rng, 0.38 * radius, 0.38 * radius)[patch.rows, patch.columns]
            patch.fill(patch.inside, look.level_db + 7.5 * np.clip(grain * 2, -1, 1))
        case "complex":
            patch.fill(patch.inside, FLUID_DB)
            patch.fill(patch.inside * _mural_nodule(patch, rng), look.level_db)
        case "mixed":
            turn = rng.uniform(-0.9, 0.9) + (np.pi if rng.random() < 0.5 else 0.0)
            side = patch.u * np.float32(np.cos(turn)) + patch.v * np.float32(np.sin(turn))
            fluid = soft((side + np.float32(0.05)) * np.float32(radius), 3 * patch.pixel_mm)
            patch.fill(patch.inside, look.level_db)
            core = soft(patch.body + np.float32(0.16 * radius), 3 * patch.pixel_mm)
            patch.fill(patch.inside * fluid * core, FLUID_DB)
        case "spongiform":
            patch.fill(patch.inside, look.level_db + 2.0)
            patch.fill(patch.inside * _cells(patch, lesion, rng), FLUID_DB)
        case "calculus":
            patch.fill(patch.inside, 12.0)
            cap = soft(patch.full, 2 * patch.pixel_mm) * np.clip(0.2 - patch.v, 0, 1)
            np.maximum(patch.specular, 7.0 * cap, out=patch.specular)


def _mural_nodule(patch: Patch, rng: np.random.Generator) -> Float:
    """Solid part of a complex mass, 0..1: a knob on the wall and one thick septum."""
    turn = rng.uniform(0.2, np.pi - 0.2) * (1 if rng.random() < 0.7 else -1)
    du, dv = patch.u - np.float32(0.55 * np.cos(turn)), patch.v - np.float32(0.55 * np.sin(turn))
    knob = np.clip((0.52 - np.sqrt(du * du + dv * dv)) * 12, 0, 1)
    lean = turn + np.pi / 2 + rng.uniform(-0.3, 0.3)
    across = patch.u * np.float32(np.sin(lean)) - patch.v * np.float32(np.cos(lean))
    septum = np.clip(1.5 - np.abs(across + np.float32(0.25)) * 18, 0, 1)
    solid: Float = np.maximum(knob, septum)
    return solid


def _cells(patch: Patch, lesion: Lesion, rng: np.random.Generator) -> Float:
    """Small cysts in a honeycomb, 0..1, at least eight pixels apart so that they survive downscaling."""
    pitch = np.float32(2 * np.pi / max(0.55 * lesion.radius_mm, 17 * patch.pixel_mm))
    x, z = patch.u * lesion.half_width_mm * pitch, patch.v * lesion.half_height_mm * pitch
    first, second = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    wave = np.sin(x + first + 0.5 * np.sin(0.6 * z)) * np.sin(z + second + 0.5 * np.sin(0.7 * x))
    rim = soft(patch.body + np.float32(3 * patch.pixel_mm), 2 * patch.pixel_mm)
    cells: Float = np.clip((np.abs(wave) - 0.3) * 6, 0, 1) * rim
    return cells


def _beam(patch: Patch, lesion: Lesion) -> None:
    """What the lesion takes from the beam or leaves to it; spent in its deeper half, so that the words for
    its inside stay visible."""
    look = lesion.look
    if look.posterior == "none":
        return
    total: Float | float
    shadow_db = CALCULUS_SHADOW_DB if look.inside == "calculus" else SHADOW_DB
    if look.posterior == "combined pattern":
        side = -1 if lesion.seed % 2 else 1
        share = np.clip(side * patch.u * 4 + 0.5, 0, 1)
        total = share * np.float32(shadow_db) + (1 - share) * np.float32(ENHANCEMENT_DB)
    else:
        total = shadow_db if look.posterior == "shadowing" else ENHANCEMENT_DB
    deep = np.clip(patch.v * 2 + 0.4, 0, 1) * soft(patch.body, 3 * patch.pixel_mm)
    steps = max(float(deep.sum(axis=0).max()), 1.0)
    patch.loss_db[...] += (total / np.float32(steps) * deep).astype(np.float32)


def _foci(tissue: Tissue, patch: Patch, lesion: Lesion, rng: np.random.Generator) -> None:
    dot_mm = 1.7 * patch.pixel_mm
    match lesion.look.foci:
        case "in":
            _dots(tissue, lesion, rng, num=8, ring=(0.0, 0.6), size_mm=dot_mm)
        case "punctate":
            _dots(tissue, lesion, rng, num=10, ring=(0.0, 0.75), size_mm=dot_mm)
        case "outside":
            _outside_dots(tissue, lesion, rng, dot_mm)
        case "duct":
            _duct(tissue, lesion, rng, dot_mm)
        case "coarse":
            for side in (-0.3, 0.35)[: int(rng.integers(1, 3))]:
                _coarse_focus(tissue, lesion, rng, float(side), 3.6 * patch.pixel_mm)
        case "rim":
            wall = _ring(patch, -1.5, 6.0) * (np.sin(2 * np.arctan2(patch.v, patch.u) + lesion.seed) > -0.75)
            np.maximum(patch.specular, 6.0 * wall, out=patch.specular)
            patch.loss_db[...] += np.float32(1.3) * wall
        case "none":
            pass


def _coarse_focus(
    tissue: Tissue, lesion: Lesion, rng: np.random.Generator, side: float, size_mm: float
) -> None:
    """A clump of three bright lumps that throws a shadow."""
    z_mm = lesion.z_mm + float(rng.uniform(-0.3, 0.1)) * lesion.half_height_mm
    for offset in (-1.4, 0.0, 1.4):
        x_mm = lesion.x_mm + side * lesion.half_width_mm + offset * size_mm
        tissue.stamp(x_mm, z_mm + float(rng.uniform(-0.8, 0.8)) * size_mm, size_mm, 12.0, loss_db=18.0)


def _dots(
    tissue: Tissue,
    lesion: Lesion,
    rng: np.random.Generator,
    *,
    num: int,
    ring: tuple[float, float],
    size_mm: float,
) -> None:
    """Bright points spread evenly over a ring, in units of the semi-axes."""
    for turn in np.arange(num) * 2.4 + rng.uniform(0, 6):  # 2.4 rad: the golden angle, no two in one place
        reach = np.sqrt(rng.uniform(ring[0] ** 2, ring[1] ** 2))
        tissue.stamp(
            lesion.x_mm + reach * lesion.half_width_mm * float(np.cos(turn)),
            lesion.z_mm + reach * lesion.half_height_mm * float(np.sin(turn)),
            size_mm,
            9.0,
        )


def _outside_dots(tissue: Tissue, lesion: Lesion, rng: np.random.Generator, size_mm: float) -> None:
    side = -1 if lesion.x_mm > 0 else 1
    for _ in range(8):
        x_mm = lesion.x_mm + side * (lesion.half_width_mm * 1.35 + rng.uniform(0.5, 5.0))
        tissue.stamp(x_mm, lesion.z_mm + rng.uniform(-2.5, 2.5), size_mm, 14.0)


def _duct(tissue: Tissue, lesion: Lesion, rng: np.random.Generator, size_mm: float) -> None:
    """A fluid-filled tube that leaves the lesion sideways, with bright points in a row."""
    side, slope = (-1 if lesion.x_mm > 0 else 1), float(rng.uniform(-0.15, 0.15))
    start = lesion.x_mm + side * 0.8 * lesion.half_width_mm
    length_mm = 10.0
    along = side * (tissue.x - np.float32(start))
    axis = tissue.z - np.float32(lesion.z_mm) - np.float32(slope) * along
    tube = soft(np.maximum(np.abs(axis) - np.float32(0.9), np.abs(along - 5.0) - np.float32(5.0)), 0.25)
    wall = soft(np.maximum(np.abs(axis) - np.float32(1.3), np.abs(along - 5.0) - np.float32(5.3)), 0.25)
    outside = np.ones_like(tissue.level_db)
    outside_patch = _patch(tissue, lesion)
    outside[outside_patch.rows, outside_patch.columns] -= outside_patch.inside
    tissue.fill(0.8 * wall * outside, 8.0)
    tissue.fill(tube * outside, -32.0)
    for place in np.linspace(2.5, length_mm - 0.8, 5):
        z_mm = lesion.z_mm + slope * place + rng.uniform(-0.3, 0.3)
        tissue.stamp(start + side * float(place), z_mm, size_mm, 12.0)
