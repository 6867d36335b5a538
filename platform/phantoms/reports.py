"""The true report of a case: two sections in English, in a few house phrasings chosen by seed.

Descriptors appear in the lexicon's own words. Findings have 25 to 60 words, impressions 8 to 20. The
sections carry no heading; the house style puts "Ultrasound findings:" and "Ultrasound impression:" before
them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sonoloop.platform.lexicon import BreastEntities, Entities, KidneyEntities, LiverEntities, ThyroidEntities

_BREAST_FINDINGS = (
    "The breast tissue shows a {shape} mass with {orientation} orientation and {margin} margin. The echo"
    " pattern is {echo_pattern}. Posterior features: {posterior_features}. Calcifications: {calcifications}."
    " Skin and pectoral muscle are unremarkable.",
    "There is a {echo_pattern} mass of {shape} shape in the glandular layer. Its margin is {margin} and its"
    " orientation is {orientation}. Posterior features are described as {posterior_features}, calcifications"
    " as {calcifications}. The overlying skin is normal.",
    "A single focal mass is seen. Shape {shape}, orientation {orientation}, margin {margin}, echo pattern"
    " {echo_pattern}, posterior features {posterior_features}, calcifications {calcifications}. The"
    " surrounding fat and glandular tissue are otherwise normal.",
)
_BREAST_IMPRESSION = (
    "Breast mass, {echo_pattern}, with {margin} margin. BI-RADS category {bi_rads}.",
    "Focal breast lesion of {shape} shape and {margin} margin, assessed as BI-RADS category {bi_rads}.",
    "BI-RADS category {bi_rads}: {shape}, {echo_pattern} mass of the breast.",
)
_BREAST_CLEAR = (
    "Skin, subcutaneous fat and glandular tissue are of normal thickness and echo texture. The pectoral"
    " muscle and its fascia are intact. No cyst, solid mass or area of posterior shadowing is seen.",
    "The glandular layer is homogeneous and the fat lobules are regular. No focal mass, no calcifications"
    " and no dilated duct are seen. Skin and pectoral fascia are unremarkable.",
)
_BREAST_CLEAR_IMPRESSION = (
    "No breast lesion is seen. BI-RADS category 1.",
    "Normal breast ultrasound without a focal lesion, BI-RADS category 1.",
)
_THYROID_FINDINGS = (
    "The thyroid lobe contains a nodule that is {composition} in composition and {echogenicity} in"
    " echogenicity. Its shape is {shape} and its margin is {margin}. Echogenic foci: {echogenic_foci}."
    " Trachea and carotid artery are normal.",
    "One thyroid nodule is seen. Composition {composition}, echogenicity {echogenicity}, shape {shape},"
    " margin {margin}, echogenic foci {echogenic_foci}. The remaining lobe is homogeneous and the strap"
    " muscles are symmetric.",
    "There is a {shape} nodule within the lobe. It is {composition}; echogenicity is {echogenicity}. The"
    " margin is {margin}. Echogenic foci are classified as {echogenic_foci}. The background parenchyma is"
    " homogeneous.",
)
_THYROID_IMPRESSION = (
    "Thyroid nodule, {composition}. ACR TI-RADS level {level}, {points}.",
    "ACR TI-RADS level {level} thyroid nodule with {margin} margin, {points}.",
    "Single thyroid nodule, {echogenicity} in echogenicity, ACR TI-RADS level {level}.",
)
_THYROID_CLEAR = (
    "The thyroid lobe is of normal size with homogeneous parenchyma and a smooth capsule. No cystic or solid"
    " nodule is seen. Trachea, carotid artery and strap muscles are unremarkable.",
    "Homogeneous thyroid parenchyma with a regular capsule. There is no nodule and there are no echogenic"
    " foci. The carotid artery is patent and the trachea lies in the midline.",
)
_THYROID_CLEAR_IMPRESSION = (
    "Normal thyroid ultrasound; no nodule is seen in this lobe.",
    "No thyroid nodule is seen; no ACR TI-RADS level applies.",
)
_LIVER_BACKGROUND = (
    "The liver parenchyma is {parenchyma}. The vessels are patent and the diaphragm is partly seen.",
    "The liver is of normal size and its parenchyma is rated as {parenchyma}. Portal and hepatic veins are"
    " patent.",
)
_KIDNEY_BACKGROUND = (
    "The kidney is of normal size and the collecting system is {collecting_system}. The cortex is of normal"
    " thickness.",
    "Kidney seen in its long axis with a regular capsule. The collecting system is {collecting_system}.",
)
_FOCAL = (
    "There is one focal lesion, which is {echogenicity}, with {margin} margin. Posterior features:"
    " {posterior_features}.",
    "One {margin} {echogenicity} focal lesion is seen in this organ. Its posterior features are described as"
    " {posterior_features}.",
    "One focal lesion: echogenicity {echogenicity}, margin {margin}, posterior features"
    " {posterior_features}.",
)
_FOCAL_CLEAR = (
    "No focal lesion, neither cystic nor solid, is seen in the visible parts of the organ.",
    "There is no cyst, no solid mass and no calcification in the visible parts of the organ.",
)
_LIVER_IMPRESSION = (
    "One {echogenicity} {margin} focal liver lesion. Liver parenchyma {parenchyma}.",
    "Focal liver lesion, {echogenicity}, with {margin} margin; parenchyma {parenchyma}.",
)
_LIVER_CLEAR_IMPRESSION = (
    "No focal liver lesion is seen. Liver parenchyma {parenchyma}.",
    "Liver parenchyma {parenchyma}, without evidence of a focal lesion.",
)
_KIDNEY_IMPRESSION = (
    "One {echogenicity} {margin} focal renal lesion. Collecting system {collecting_system}.",
    "Focal renal lesion, {echogenicity}, with {margin} margin; collecting system {collecting_system}.",
)
_KIDNEY_CLEAR_IMPRESSION = (
    "No focal renal lesion is seen. Collecting system {collecting_system}.",
    "Renal collecting system {collecting_system}, without evidence of a focal lesion.",
)


def write_report(entities: Entities, rng: np.random.Generator) -> tuple[str, str]:
    """Findings and impression that say what the entities say.

    Args:
        entities: Every value is named in the text, in the lexicon's words.
        rng: Chooses the phrasing.
    """
    values = entities.flat()
    if isinstance(entities, ThyroidEntities) and entities.lesion == "present":
        points = entities.ti_rads_points()
        values |= {"level": str(entities.ti_rads_level()), "points": f"{points} point{'s' * (points != 1)}"}
    findings, impression = _templates(entities)
    return (
        " ".join(_fill(choices, values, rng) for choices in findings),
        _fill(impression, values, rng),
    )


def _templates(entities: Entities) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Groups of phrasings for the findings, one of each is used, and phrasings for the impression."""
    present = entities.lesion == "present"
    match entities:
        case BreastEntities():
            return (
                ((_BREAST_FINDINGS,), _BREAST_IMPRESSION)
                if present
                else (
                    (_BREAST_CLEAR,),
                    _BREAST_CLEAR_IMPRESSION,
                )
            )
        case ThyroidEntities():
            return (
                ((_THYROID_FINDINGS,), _THYROID_IMPRESSION)
                if present
                else (
                    (_THYROID_CLEAR,),
                    _THYROID_CLEAR_IMPRESSION,
                )
            )
        case LiverEntities():
            rest = _FOCAL if present else _FOCAL_CLEAR
            return (_LIVER_BACKGROUND, rest), _LIVER_IMPRESSION if present else _LIVER_CLEAR_IMPRESSION
        case KidneyEntities():
            rest = _FOCAL if present else _FOCAL_CLEAR
            return (_KIDNEY_BACKGROUND, rest), _KIDNEY_IMPRESSION if present else _KIDNEY_CLEAR_IMPRESSION
        case _:
            raise ValueError("the organ has no report templates")


def _fill(choices: tuple[str, ...], values: Mapping[str, str], rng: np.random.Generator) -> str:
    text = choices[int(rng.integers(len(choices)))].format_map(values)
    return text[0].upper() + text[1:]
