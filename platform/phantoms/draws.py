"""Entities drawn from the lexicon with sensible clinical correlation, and scored by fixed rules.

Values that are never drawn, because a picture cannot show them: ``not assessed`` everywhere, BI-RADS ``0``
(incomplete) and ``6`` (proven by biopsy). Comet-tail artefacts share their value with "none" and are not
drawn either.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sonoloop.platform.lexicon import (
    BreastEntities,
    Entities,
    KidneyEntities,
    LiverEntities,
    Organ,
    ThyroidEntities,
)

PHANTOM_ORGANS: tuple[Organ, ...] = ("breast", "thyroid", "liver", "kidney")
"""The organs of the lexicon that the simulator can draw."""
LESION_SHARE = 0.78
Weights = Mapping[str, float]


def draw_entities(rng: np.random.Generator, organ: Organ) -> Entities:
    """What is true about one case; about `LESION_SHARE` of them hold a lesion.

    Raises:
        ValueError: the organ is none of `PHANTOM_ORGANS`.
    """
    present = bool(rng.random() < LESION_SHARE)
    match organ:
        case "breast":
            return _breast(rng) if present else BreastEntities(organ=organ, lesion="absent")
        case "thyroid":
            return _thyroid(rng) if present else ThyroidEntities(organ=organ, lesion="absent")
        case "liver":
            return _liver(rng, present)
        case "kidney":
            return _kidney(rng, present)
        case _:
            raise ValueError(f"there is no phantom of the {organ}, only of {', '.join(PHANTOM_ORGANS)}")


def bi_rads(values: Mapping[str, str]) -> str:
    """The assessment category as a function of the descriptors; a rule of this simulator, no guideline.

    Args:
        values: The breast descriptors without ``bi_rads``.
    """
    benign = values["margin"] == "circumscribed" and values["calcifications"] in (
        "absent",
        "outside of a mass",
    )
    if benign and values["echo_pattern"] in ("anechoic", "hyperechoic"):
        return "2"
    points = {"irregular": 2}.get(values["shape"], 0)
    points += values["orientation"] == "not parallel" and values["shape"] != "round"
    points += {"circumscribed": 0, "indistinct": 1, "microlobulated": 2, "angular": 2, "spiculated": 4}[
        values["margin"]
    ]
    points += {"complex cystic and solid": 2, "heterogeneous": 1}.get(values["echo_pattern"], 0)
    points += {"shadowing": 1, "combined pattern": 1}.get(values["posterior_features"], 0)
    points += {"in a mass": 1, "intraductal": 2}.get(values["calcifications"], 0)
    return (
        "3" if points == 0 else "4A" if points <= 2 else "4B" if points <= 4 else "4C" if points <= 6 else "5"
    )


def _pick(rng: np.random.Generator, weights: Weights) -> str:
    names = list(weights)
    shares = np.array([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]


_BREAST: dict[str, dict[str, Weights]] = {
    "cyst": {
        "shape": {"oval": 1, "round": 1},
        "margin": {"circumscribed": 1},
        "echo_pattern": {"anechoic": 1},
        "posterior_features": {"enhancement": 1},
        "calcifications": {"absent": 1},
    },
    "fibroadenoma": {
        "shape": {"oval": 0.8, "round": 0.2},
        "margin": {"circumscribed": 0.8, "microlobulated": 0.2},
        "echo_pattern": {"hypoechoic": 0.35, "isoechoic": 0.65},
        "posterior_features": {"none": 0.65, "enhancement": 0.35},
        "calcifications": {"absent": 0.7, "in a mass": 0.15, "outside of a mass": 0.15},
    },
    "hyperechoic": {
        "shape": {"oval": 0.7, "round": 0.3},
        "margin": {"circumscribed": 0.6, "indistinct": 0.4},
        "echo_pattern": {"hyperechoic": 1},
        "posterior_features": {"none": 0.7, "shadowing": 0.3},
        "calcifications": {"absent": 0.8, "outside of a mass": 0.2},
    },
    "complex": {
        "shape": {"oval": 0.4, "round": 0.3, "irregular": 0.3},
        "margin": {"circumscribed": 0.4, "microlobulated": 0.3, "indistinct": 0.3},
        "echo_pattern": {"complex cystic and solid": 1},
        "posterior_features": {"enhancement": 0.5, "combined pattern": 0.5},
        "calcifications": {"absent": 0.8, "outside of a mass": 0.2},
    },
    "suspicious": {
        "shape": {"oval": 0.15, "round": 0.15, "irregular": 0.7},
        "margin": {"indistinct": 0.22, "angular": 0.27, "microlobulated": 0.2, "spiculated": 0.31},
        "echo_pattern": {"hypoechoic": 0.55, "heterogeneous": 0.45},
        "posterior_features": {"none": 0.25, "shadowing": 0.5, "combined pattern": 0.25},
        "calcifications": {"absent": 0.42, "in a mass": 0.28, "outside of a mass": 0.12, "intraductal": 0.18},
    },
}
_BREAST_KINDS: Weights = {
    "cyst": 0.16,
    "fibroadenoma": 0.19,
    "hyperechoic": 0.13,
    "complex": 0.14,
    "suspicious": 0.38,
}


def _breast(rng: np.random.Generator) -> BreastEntities:
    kind = _pick(rng, _BREAST_KINDS)
    values = {name: _pick(rng, weights) for name, weights in _BREAST[kind].items()}
    if values["shape"] == "irregular" and values["margin"] == "circumscribed":
        values["margin"] = "microlobulated"  # an irregular mass is never called circumscribed
    upright = {"suspicious": 0.6, "complex": 0.3}.get(kind, 0.08)
    is_upright = values["shape"] == "round" or rng.random() < upright  # BI-RADS: round is not parallel
    values["orientation"] = "not parallel" if is_upright else "parallel"
    return BreastEntities.model_validate(
        {"organ": "breast", "lesion": "present", **values, "bi_rads": bi_rads(values)}
    )


_THYROID: dict[str, dict[str, Weights]] = {
    "cyst": {
        "composition": {"cystic or almost completely cystic": 1},
        "echogenicity": {"anechoic": 1},
        "shape": {"wider-than-tall": 0.9, "taller-than-wide": 0.1},
        "margin": {"smooth": 1},
        "echogenic_foci": {"none or large comet-tail artifacts": 1},
    },
    "spongiform": {
        "composition": {"spongiform": 1},
        "echogenicity": {"hyperechoic or isoechoic": 1},
        "shape": {"wider-than-tall": 0.9, "taller-than-wide": 0.1},
        "margin": {"smooth": 0.8, "ill-defined": 0.2},
        "echogenic_foci": {"none or large comet-tail artifacts": 1},
    },
    "mixed": {
        "composition": {"mixed cystic and solid": 1},
        "echogenicity": {"hyperechoic or isoechoic": 0.6, "hypoechoic": 0.4},
        "shape": {"wider-than-tall": 0.7, "taller-than-wide": 0.3},
        "margin": {"smooth": 0.5, "ill-defined": 0.2, "lobulated or irregular": 0.3},
        "echogenic_foci": {
            "none or large comet-tail artifacts": 0.6,
            "macrocalcifications": 0.2,
            "punctate echogenic foci": 0.2,
        },
    },
    "solid": {
        "composition": {"solid or almost completely solid": 1},
        "echogenicity": {"hyperechoic or isoechoic": 0.24, "hypoechoic": 0.38, "very hypoechoic": 0.38},
        "shape": {"wider-than-tall": 0.5, "taller-than-wide": 0.5},
        "margin": {
            "smooth": 0.22,
            "ill-defined": 0.22,
            "lobulated or irregular": 0.31,
            "extra-thyroidal extension": 0.25,
        },
        "echogenic_foci": {
            "none or large comet-tail artifacts": 0.25,
            "macrocalcifications": 0.25,
            "peripheral (rim) calcifications": 0.25,
            "punctate echogenic foci": 0.25,
        },
    },
}
_THYROID_KINDS: Weights = {"cyst": 0.17, "spongiform": 0.16, "mixed": 0.19, "solid": 0.48}


def _thyroid(rng: np.random.Generator) -> ThyroidEntities:
    values = {name: _pick(rng, weights) for name, weights in _THYROID[_pick(rng, _THYROID_KINDS)].items()}
    if values["echogenicity"] == "hyperechoic or isoechoic" and values["margin"] == "ill-defined":
        values["margin"] = "smooth"  # an isoechoic nodule without a border cannot be seen
    return ThyroidEntities.model_validate({"organ": "thyroid", "lesion": "present", **values})


_FOCAL: dict[str, dict[str, Weights]] = {
    "anechoic": {"margin": {"well-defined": 1}, "posterior_features": {"enhancement": 1}},
    "hypoechoic": {
        "margin": {"well-defined": 0.45, "ill-defined": 0.55},
        "posterior_features": {"none": 0.5, "enhancement": 0.25, "shadowing": 0.25},
    },
    "isoechoic": {"margin": {"well-defined": 1}, "posterior_features": {"none": 0.75, "enhancement": 0.25}},
    "hyperechoic": {
        "margin": {"well-defined": 0.55, "ill-defined": 0.45},
        "posterior_features": {"none": 0.5, "enhancement": 0.1, "shadowing": 0.4},
    },
}
_CALCULUS = {"echogenicity": "hyperechoic", "margin": "well-defined", "posterior_features": "shadowing"}


def _focal(rng: np.random.Generator, weights: Weights) -> dict[str, str]:
    echogenicity = _pick(rng, weights)
    rest = {name: _pick(rng, shares) for name, shares in _FOCAL[echogenicity].items()}
    return {"echogenicity": echogenicity, **rest}


def _liver(rng: np.random.Generator, present: bool) -> LiverEntities:
    parenchyma = _pick(rng, {"normal": 0.4, "increased echogenicity": 0.3, "coarse": 0.3})
    lesion = _focal(rng, {"anechoic": 0.26, "hypoechoic": 0.3, "isoechoic": 0.14, "hyperechoic": 0.3})
    values = {"lesion": "present", **lesion} if present else {"lesion": "absent"}
    return LiverEntities.model_validate({"organ": "liver", "parenchyma": parenchyma, **values})


def _kidney(rng: np.random.Generator, present: bool) -> KidneyEntities:
    system = _pick(rng, {"not dilated": 0.6, "dilated": 0.4})
    is_calculus = rng.random() < 0.24
    lesion = _focal(rng, {"anechoic": 0.32, "hypoechoic": 0.3, "isoechoic": 0.16, "hyperechoic": 0.22})
    if is_calculus:
        lesion = _CALCULUS
    elif lesion["echogenicity"] == "hyperechoic" and lesion["posterior_features"] == "shadowing":
        lesion = {**lesion, "posterior_features": "none"}  # a fatty tumour; the shadow belongs to calculi
    values = {"lesion": "present", **lesion} if present else {"lesion": "absent"}
    return KidneyEntities.model_validate({"organ": "kidney", "collecting_system": system, **values})
