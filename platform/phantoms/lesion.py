"""A lesion as geometry and echo: what the words of the lexicon mean on the screen.

Outlines are radius tables over the angle about the lesion's centre (star-shaped), P angles from -pi to pi,
in units of the semi-axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.lexicon import (
    BreastEntities,
    Entities,
    KidneyEntities,
    LiverEntities,
    ThyroidEntities,
)
from sonoloop.platform.phantoms.tissue import FLUID_DB

NUM_ANGLES = 720
Outline = Literal["smooth", "soft", "angular", "microlobulated", "lobulated", "spiculated"]
Inside = Literal["uniform", "fluid", "complex", "heterogeneous", "spongiform", "mixed", "calculus"]
Posterior = Literal["none", "enhancement", "shadowing", "combined pattern"]
Foci = Literal["none", "in", "outside", "duct", "coarse", "rim", "punctate"]


@dataclass(frozen=True)
class Look:
    """How a lesion appears, whatever its place. ``proportion`` is height over width."""

    outline: Outline
    is_irregular: bool
    proportion: tuple[float, float]
    inside: Inside
    level_db: float
    posterior: Posterior
    foci: Foci
    has_halo: bool
    breaks_capsule: bool = False


@dataclass(frozen=True)
class Lesion:
    """A look in a place: centre and semi-axes in mm of tissue, ``seed`` for its details."""

    look: Look
    x_mm: float
    z_mm: float
    half_width_mm: float
    half_height_mm: float
    seed: int

    @property
    def radius_mm(self) -> float:
        """Geometric mean of the semi-axes."""
        return float(np.sqrt(self.half_width_mm * self.half_height_mm))

    def outline(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Radius tables ``(P,)`` of the body and of the body with its spicules."""
        rng = np.random.default_rng([self.seed, 1])
        body_P = _normalised(_body_radius(self.look, rng))
        spikes_P = _spikes(rng) if self.look.outline == "spiculated" else np.zeros(NUM_ANGLES)
        return body_P.astype(np.float32), (body_P + spikes_P).astype(np.float32)

    def contour(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Tissue points ``x, z`` ``(P,)``, mm, on the outline of the body."""
        body_P, _ = self.outline()
        angle_P = angles()
        x_P = self.x_mm + self.half_width_mm * body_P * np.cos(angle_P)
        z_P = self.z_mm + self.half_height_mm * body_P * np.sin(angle_P)
        return x_P.astype(np.float32), z_P.astype(np.float32)


def angles() -> NDArray[np.float64]:
    """The P angles of a radius table."""
    return np.asarray(np.arange(NUM_ANGLES) * (2 * np.pi / NUM_ANGLES) - np.pi, dtype=np.float64)


def look_of(entities: Entities, rng: np.random.Generator) -> Look:
    """Translate descriptors into a look.

    Raises:
        ValueError: the entities hold no lesion.
    """
    if entities.lesion != "present":
        raise ValueError("expected entities with a lesion, found none")
    match entities:
        case BreastEntities():
            return _breast_look(entities, rng)
        case ThyroidEntities():
            return _thyroid_look(entities)
        case LiverEntities() | KidneyEntities():
            return _focal_look(entities, rng)
        case _:
            raise ValueError("the organ has no phantom")


_BREAST_INSIDE: dict[str, tuple[Inside, float]] = {
    "anechoic": ("fluid", FLUID_DB),
    "hyperechoic": ("uniform", 12.0),
    "complex cystic and solid": ("complex", -8.0),
    "hypoechoic": ("uniform", -14.0),
    "isoechoic": ("uniform", 0.0),
    "heterogeneous": ("heterogeneous", -9.0),
}
_BREAST_OUTLINE: dict[str, Outline] = {
    "circumscribed": "smooth",
    "indistinct": "soft",
    "angular": "angular",
    "microlobulated": "microlobulated",
    "spiculated": "spiculated",
}
_BREAST_FOCI: dict[str, Foci] = {
    "absent": "none",
    "in a mass": "in",
    "outside of a mass": "outside",
    "intraductal": "duct",
}


def _breast_look(entities: BreastEntities, rng: np.random.Generator) -> Look:
    inside, level_db = _BREAST_INSIDE[str(entities.echo_pattern)]
    if entities.shape == "round":
        proportion = (0.96, 1.04)
    elif entities.orientation == "parallel":
        proportion = (0.5, 0.65)
    else:
        proportion = (1.35, 1.6)
    return Look(
        outline=_BREAST_OUTLINE[str(entities.margin)],
        is_irregular=entities.shape == "irregular",
        proportion=proportion,
        inside=inside,
        level_db=level_db + float(rng.uniform(-1, 1)),
        posterior=_POSTERIOR[str(entities.posterior_features)],
        foci=_BREAST_FOCI[str(entities.calcifications)],
        has_halo=entities.echo_pattern == "isoechoic",
    )


_THYROID_LEVEL = {
    "anechoic": FLUID_DB,
    "hyperechoic or isoechoic": 5.0,
    "hypoechoic": -8.0,
    "very hypoechoic": -21.0,
}
_THYROID_INSIDE: dict[str, Inside] = {
    "cystic or almost completely cystic": "fluid",
    "spongiform": "spongiform",
    "mixed cystic and solid": "mixed",
    "solid or almost completely solid": "uniform",
}
_THYROID_OUTLINE: dict[str, Outline] = {
    "smooth": "smooth",
    "ill-defined": "soft",
    "lobulated or irregular": "lobulated",
    "extra-thyroidal extension": "lobulated",
}
_THYROID_FOCI: dict[str, Foci] = {
    "none or large comet-tail artifacts": "none",
    "macrocalcifications": "coarse",
    "peripheral (rim) calcifications": "rim",
    "punctate echogenic foci": "punctate",
}


def _thyroid_look(entities: ThyroidEntities) -> Look:
    inside = _THYROID_INSIDE[str(entities.composition)]
    return Look(
        outline=_THYROID_OUTLINE[str(entities.margin)],
        is_irregular=False,
        proportion=(1.3, 1.5) if entities.shape == "taller-than-wide" else (0.58, 0.74),
        inside=inside,
        level_db=_THYROID_LEVEL[str(entities.echogenicity)],
        posterior="enhancement" if inside == "fluid" else "none",
        foci=_THYROID_FOCI[str(entities.echogenic_foci)],
        has_halo=entities.echogenicity == "hyperechoic or isoechoic",
        breaks_capsule=entities.margin == "extra-thyroidal extension",
    )


_FOCAL_LEVEL = {"anechoic": FLUID_DB, "hypoechoic": -12.0, "isoechoic": 0.0, "hyperechoic": 13.0}
_POSTERIOR: dict[str, Posterior] = {
    "none": "none",
    "enhancement": "enhancement",
    "shadowing": "shadowing",
    "combined pattern": "combined pattern",
}


def is_calculus(entities: Entities) -> bool:
    """Whether the lesion is drawn as a renal stone: hyperechoic, well defined, shadowing."""
    return (
        isinstance(entities, KidneyEntities)
        and entities.echogenicity == "hyperechoic"
        and entities.posterior_features == "shadowing"
    )


def _focal_look(entities: LiverEntities | KidneyEntities, rng: np.random.Generator) -> Look:
    stone = is_calculus(entities)
    background_db = -2.0
    if isinstance(entities, LiverEntities):
        background_db = 6.0 if entities.parenchyma == "increased echogenicity" else 0.0
    echogenicity = str(entities.echogenicity)
    level_db = _FOCAL_LEVEL[echogenicity] + (0.0 if echogenicity == "anechoic" else background_db)
    return Look(
        outline="smooth" if entities.margin == "well-defined" else "soft",
        is_irregular=False,
        proportion=(0.5, 0.62) if stone else (0.78, 1.0),
        inside="calculus" if stone else "fluid" if echogenicity == "anechoic" else "uniform",
        level_db=level_db + (0.0 if echogenicity == "anechoic" else float(rng.uniform(-1, 1))),
        posterior=_POSTERIOR[str(entities.posterior_features)],
        foci="none",
        has_halo=echogenicity == "isoechoic",
    )


def _body_radius(look: Look, rng: np.random.Generator) -> NDArray[np.float64]:
    angle_P = angles()
    radius_P = np.ones(NUM_ANGLES)
    if look.is_irregular:
        for wave, size in ((2, 0.06), (3, 0.15), (4, 0.1), (5, 0.07)):
            radius_P += size * np.sin(wave * angle_P + rng.uniform(0, 2 * np.pi))
    elif look.outline == "soft":
        radius_P += 0.06 * np.sin(3 * angle_P + rng.uniform(0, 2 * np.pi))
    if look.outline == "angular":
        radius_P *= _polygon(angle_P, rng)
    elif look.outline == "microlobulated":
        radius_P += 0.23 * np.abs(np.sin(5.5 * angle_P + rng.uniform(0, np.pi))) - 0.16
    elif look.outline == "lobulated":
        radius_P += 0.3 * np.abs(np.sin(2.5 * angle_P + rng.uniform(0, np.pi))) - 0.18
    return radius_P


def _polygon(angle_P: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Radius of a polygon with five or six uneven corners about the origin."""
    num = int(rng.integers(5, 7))
    corner_N = (np.arange(num) + rng.uniform(-0.25, 0.25, num)) * 2 * np.pi / num + rng.uniform(0, 1)
    reach_N = rng.uniform(0.95, 1.45, num)
    x_N, y_N = reach_N * np.cos(corner_N), reach_N * np.sin(corner_N)
    x2_N, y2_N = np.roll(x_N, -1), np.roll(y_N, -1)
    cross_N = x_N * y2_N - x2_N * y_N
    normal_N = (y2_N - y_N) / cross_N, (x_N - x2_N) / cross_N
    inverse_PN = np.cos(angle_P)[:, None] * normal_N[0] + np.sin(angle_P)[:, None] * normal_N[1]
    return np.asarray(1 / inverse_PN.max(axis=1))


def _normalised(radius_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale so that the outline's box is as large as the ellipse's, keeping the semi-axes' meaning."""
    angle_P = angles()
    extent = max(np.abs(radius_P * np.cos(angle_P)).max(), np.abs(radius_P * np.sin(angle_P)).max())
    return np.asarray(radius_P / extent)


def _spikes(rng: np.random.Generator) -> NDArray[np.float64]:
    """Thin rays that taper outwards, all around."""
    angle_P, num = angles(), int(rng.integers(10, 13))
    spikes_P = np.zeros_like(angle_P)
    for ray in range(num):
        middle = ray * 2 * np.pi / num + rng.uniform(-0.15, 0.15)
        apart_P = np.abs((angle_P - middle + np.pi) % (2 * np.pi) - np.pi)
        spikes_P = np.maximum(spikes_P, rng.uniform(0.45, 0.8) * np.clip(1 - apart_P / 0.14, 0, 1) ** 1.5)
    return spikes_P
