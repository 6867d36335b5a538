"""The invented machines: kind A and kind B differ in speckle, grey map, gain and tint, visibly.

The probe follows the organ: a linear array for breast and thyroid, a curved one for liver and kidney.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sonoloop.platform.lexicon import Organ
from sonoloop.platform.phantoms.view import View, curved_view, linear_view

ScannerKind = Literal["A", "B"]
SCANNER_KINDS: tuple[ScannerKind, ...] = get_args(ScannerKind)
SMALL_PARTS: tuple[Organ, ...] = ("breast", "thyroid")


@dataclass(frozen=True)
class Machine:
    """What makes one machine's pictures look as they do.

    ``pulse_px`` and ``beam_px`` are standard deviations of the point spread function at the focus, in grid
    steps along and across beams; ``looks`` independent speckle patterns are averaged (compounding).
    """

    manufacturer: str
    model: str
    pulse_px: float
    beam_px: float
    looks: int
    dynamic_range_db: tuple[float, float]
    gamma: float
    contrast: float
    gain_db: tuple[float, float]
    tint: tuple[float, float, float]
    sharpen: float


MACHINES: dict[ScannerKind, tuple[Machine, ...]] = {
    "A": (
        Machine("Aldermoor", "AM-7", 0.9, 1.1, 2, (60, 68), 1.0, 0.15, (-2, 3), (1.0, 1.0, 1.0), 0.0),
        Machine("Aldermoor", "AM-9 Pro", 0.8, 0.95, 2, (64, 72), 0.9, 0.35, (0, 4), (0.96, 0.98, 1.0), 0.0),
    ),
    "B": (
        Machine("Nordvik", "E2", 1.3, 1.9, 1, (50, 56), 1.15, 0.0, (-3, 2), (1.0, 0.95, 0.84), 0.35),
        Machine("Nordvik", "E4 Field", 1.6, 1.7, 1, (46, 52), 1.0, 0.25, (-1, 3), (1.0, 1.0, 1.0), 0.2),
    ),
}


@dataclass(frozen=True)
class Acquisition:
    """The settings of one examination. ``attenuation_db`` is what the time gain leaves uncorrected, per
    centimetre; ``focus`` is a fraction of depth."""

    machine: Machine
    view: View
    centre_mhz: float
    gain_db: float
    dynamic_range_db: float
    attenuation_db: float
    noise_db: float
    focus: float
    is_colour: bool


def draw_acquisition(rng: np.random.Generator, organ: Organ, kind: ScannerKind) -> Acquisition:
    """Settings that a sonographer could have chosen for the organ."""
    machines = MACHINES[kind]
    machine = machines[int(rng.integers(len(machines)))]
    small = organ in SMALL_PARTS
    if small:
        view = linear_view(float(rng.choice((27.0, 30.0, 33.0))), 40.0)
    else:
        radius = 50.0 if kind == "A" else 60.0
        view = curved_view(
            float(rng.choice((96.0, 104.0, 112.0))), radius, float(rng.choice((31.0, 33.0, 35.0)))
        )
    return Acquisition(
        machine=machine,
        view=view,
        centre_mhz=float(rng.choice((9.0, 10.5, 12.0) if small else (2.5, 3.2, 4.0))),
        gain_db=float(rng.uniform(*machine.gain_db)),
        dynamic_range_db=float(rng.uniform(*machine.dynamic_range_db)),
        attenuation_db=float(rng.uniform(-0.4, 1.4) if small else rng.uniform(-0.1, 0.35)),
        noise_db=float(rng.uniform(-46, -38)),
        focus=float(rng.uniform(0.35, 0.6)),
        is_colour=bool(rng.random() < 0.4),
    )
