"""From a case to pixels: paint the tissue under the moved probe, send the beam, compress, scan convert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.phantoms import abdomen, small_parts
from sonoloop.platform.phantoms.case import PhantomCase
from sonoloop.platform.phantoms.paint import paint_lesion
from sonoloop.platform.phantoms.scanners import Acquisition
from sonoloop.platform.phantoms.speckle import compress, envelope
from sonoloop.platform.phantoms.tissue import Tissue
from sonoloop.platform.phantoms.view import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    SCALE_WIDTH,
    Float,
    RegionBox,
    Shift,
)

CYCLE_FRAMES = 24
"""Frames in which the motion comes back to its start."""
TICK_GREY = 150


@dataclass(frozen=True)
class RenderedFrame:
    """One frame as the archive shows it after de-identification: the banner is black.

    ``pixels`` are uint8 ``(336, 448)`` or ``(336, 448, 3)`` RGB; ``lesion`` is ``x, y, width, height`` in
    fractions of the whole frame (0..1, origin top left), or ``None`` without a lesion.
    """

    pixels: NDArray[np.uint8]
    region: RegionBox
    lesion: tuple[float, float, float, float] | None


def render(case: PhantomCase, frame_index: int = 0) -> RenderedFrame:
    """Render one frame; frames of one case are moments of one slow movement.

    Args:
        case: From `draw_case`.
        frame_index: From 0; any number, the movement repeats.
    """
    shift = motion(case, frame_index)
    tissue = paint_tissue(case, shift)
    grey_SB = _beamform(tissue, case.acquisition, case.detail_seed)
    return RenderedFrame(
        pixels=_compose(grey_SB, case.acquisition),
        region=case.acquisition.view.region,
        lesion=lesion_box(case, shift),
    )


def motion(case: PhantomCase, frame_index: int) -> Shift:
    """How far the tissue has moved, in grid steps along and across beams: breathing and a slow pan."""
    rng = np.random.default_rng([case.detail_seed, 4])
    breath, pan = rng.uniform(3, 7), rng.uniform(8, 14) * rng.choice((-1, 1))
    phase = 2 * np.pi * frame_index / CYCLE_FRAMES
    return round(float(breath * (1 - np.cos(2 * phase)) / 2)), round(float(pan * np.sin(phase)))


def paint_tissue(case: PhantomCase, shift: Shift) -> Tissue:
    """Organ and lesion on the grid."""
    tissue = Tissue(case.acquisition.view, shift)
    match case.anatomy:
        case small_parts.Breast():
            small_parts.paint_breast(tissue, case.anatomy)
        case small_parts.Thyroid():
            small_parts.paint_thyroid(tissue, case.anatomy)
        case abdomen.Liver():
            abdomen.paint_liver(tissue, case.anatomy)
        case abdomen.Kidney():
            abdomen.paint_kidney(tissue, case.anatomy)
    if case.lesion is not None:
        paint_lesion(tissue, case.lesion)
    return tissue


def lesion_box(case: PhantomCase, shift: Shift) -> tuple[float, float, float, float] | None:
    """Box of the lesion's body on the frame, clipped to the region, in fractions of the frame."""
    if case.lesion is None:
        return None
    view, region = case.acquisition.view, case.acquisition.view.region
    column_P, row_P = view.to_pixels(*case.lesion.contour(), shift)
    column_P = np.clip(column_P, region.left, region.right + 1 - SCALE_WIDTH)
    row_P = np.clip(row_P, region.top, region.bottom + 1)
    left, right = float(column_P.min()) / FRAME_WIDTH, float(column_P.max()) / FRAME_WIDTH
    top, bottom = float(row_P.min()) / FRAME_HEIGHT, float(row_P.max()) / FRAME_HEIGHT
    return left, top, right - left, bottom - top


def _beamform(tissue: Tissue, acquisition: Acquisition, seed: int) -> Float:
    amplitude_SB = np.exp(tissue.level_db * np.float32(np.log(10) / 20))
    envelope_SB = envelope(amplitude_SB, tissue.specular, acquisition, seed, tissue.shift)
    loss_SB = np.cumsum(tissue.loss_db, axis=0, dtype=np.float32)
    return compress(envelope_SB, loss_SB, acquisition)


def _compose(grey_SB: Float, acquisition: Acquisition) -> NDArray[np.uint8]:
    view, region = acquisition.view, acquisition.view.region
    picture = view.scan_convert(grey_SB)
    frame = np.zeros((FRAME_HEIGHT, FRAME_WIDTH), dtype=np.uint8)
    rows = slice(region.top, region.bottom + 1)
    frame[rows, region.left : region.right + 1 - SCALE_WIDTH] = picture * 255
    ticks = np.arange(0, view.height, 10 / view.pixel_mm).astype(int)
    frame[region.top + ticks, region.right - 4 : region.right + 1] = TICK_GREY
    if not acquisition.is_colour:
        return frame
    table = np.outer(np.arange(256), acquisition.machine.tint).astype(np.uint8)  # grey to RGB
    coloured: NDArray[np.uint8] = table[frame]
    return coloured
