"""Standard codes of the lexicon's words, where DICOM's own tables give one.

Source: DICOM PS3.16, the context group (CID) named with each code. A value is coded only where the group's
concept says the same thing of the same kind of organ: BI-RADS terms from the breast groups, segments and
sites from the anatomical groups. A missing code means that none is certain, not that none exists.
"""

from __future__ import annotations

from typing import NamedTuple

from sonoloop.platform.lexicon.base import Organ


class Code(NamedTuple):
    """A coded concept: ``SCT`` is SNOMED CT, ``DCM`` DICOM's own scheme."""

    scheme: str
    value: str
    meaning: str
    context_group: int


_Words = dict[str, tuple[str, str]]


def _group(scheme: str, cid: int, words: _Words) -> dict[str, Code]:
    return {word: Code(scheme, value, meaning, cid) for word, (value, meaning) in words.items()}


_FINDING = _group("SCT", 240, {"present": ("52101004", "Present"), "absent": ("272519000", "Absent")})
_LATERALITY = _group("SCT", 247, {"left": ("7771000", "Left"), "right": ("24028007", "Right")})
_DEGREE = _group(
    "SCT",
    3716,
    {"mild": ("255604002", "Mild"), "moderate": ("6736007", "Moderate"), "severe": ("24484000", "Severe")},
)
_DEGREE_OR_NONE = {**_DEGREE, **_group("SCT", 3716, {"none": ("260413007", "None")})}

_ORGANS: dict[Organ, Code] = {
    "breast": Code("SCT", "76752008", "Breast", 4),
    "thyroid": Code("SCT", "69748006", "Thyroid", 4),
    "liver": Code("SCT", "10200004", "Liver", 4),
    "kidney": Code("SCT", "64033007", "Kidney", 4030),
    "ovary": Code("SCT", "15497006", "Ovary", 4),
    "heart": Code("SCT", "80891009", "Heart", 4030),
    "vessel": Code("SCT", "69105007", "Carotid Artery", 4),
}

_BREAST: dict[str, dict[str, Code]] = {
    "shape": _group(
        "SCT",
        6004,
        {
            "oval": ("84360004", "Ovoid shape (Oval)"),
            "round": ("42700002", "Round shape"),
            "irregular": ("49608001", "Irregular"),
        },
    ),
    "orientation": _group(
        "DCM", 6152, {"parallel": ("111355", "Parallel"), "not parallel": ("111356", "Not parallel")}
    ),
    "margin": {
        **_group(
            "SCT",
            6006,
            {
                "circumscribed": ("129738007", "Circumscribed lesion"),
                "indistinct": ("129741003", "Indistinct lesion"),
                "microlobulated": ("129739004", "Microlobulated lesion"),
                "spiculated": ("129742005", "Spiculated lesion"),
            },
        ),
        **_group("DCM", 6006, {"angular": ("111343", "Angular margins")}),
    },
    "echo_pattern": _group(
        "DCM",
        6154,
        {
            "anechoic": ("111361", "Anechoic"),
            "hyperechoic": ("111362", "Hyperechoic"),
            "hypoechoic": ("111364", "Hypoechoic"),
            "isoechoic": ("111365", "Isoechoic"),
        },
    ),
    "posterior_features": _group(
        "DCM",
        6155,
        {
            "none": ("111367", "No posterior acoustic features"),
            "enhancement": ("111368", "Posterior enhancement"),
            "shadowing": ("111369", "Posterior shadowing"),
            "combined pattern": ("111370", "Combined posterior enhancement and shadowing"),
        },
    ),
    "laterality": _LATERALITY,
    "quadrant": {
        **_group(
            "SCT",
            6020,
            {
                "upper outer": ("76365002", "Upper outer quadrant of breast"),
                "upper inner": ("77831004", "Upper inner quadrant of breast"),
                "lower outer": ("33564002", "Lower outer quadrant of breast"),
                "lower inner": ("19100000", "Lower inner quadrant of breast"),
            },
        ),
        **_group(
            "SCT",
            6018,
            {
                "central": ("129786000", "Central region of breast"),
                "axillary tail": ("129785001", "Axillary tail region"),
            },
        ),
    },
    "clock_position": _group(
        "SCT",
        6018,
        {
            "1": ("129772004", "1 o'clock position"),
            "2": ("129773009", "2 o'clock position"),
            "3": ("129774003", "3 o'clock position"),
            "4": ("129775002", "4 o'clock position"),
            "5": ("129776001", "5 o'clock position"),
            "6": ("129777005", "6 o'clock position"),
            "7": ("129778000", "7 o'clock position"),
            "8": ("129779008", "8 o'clock position"),
            "9": ("129780006", "9 o'clock position"),
            "10": ("129781005", "10 o'clock position"),
            "11": ("129782003", "11 o'clock position"),
            "12": ("129783008", "12 o'clock position"),
        },
    ),
}
_THYROID: dict[str, dict[str, Code]] = {
    "lobe": {
        **_group(
            "SCT",
            12131,
            {
                "left lobe": ("79163004", "Left lobe of thyroid"),
                "right lobe": ("29565003", "Right lobe of thyroid"),
            },
        ),
        **_group("SCT", 12130, {"isthmus": ("40867004", "Thyroid isthmus")}),
    }
}
_LIVER: dict[str, dict[str, Code]] = {
    "segment": _group(
        "SCT",
        7170,
        {
            "I": ("71133005", "Couinaud hepatic segment I"),
            "II": ("277956007", "Couinaud hepatic segment II"),
            "III": ("277957003", "Couinaud hepatic segment III"),
            "IV": ("277958008", "Couinaud hepatic segment IV"),
            "V": ("277959000", "Couinaud hepatic segment V"),
            "VI": ("277960005", "Couinaud hepatic segment VI"),
            "VII": ("277961009", "Couinaud hepatic segment VII"),
            "VIII": ("277962002", "Couinaud hepatic segment VIII"),
        },
    )
}
_OVARY: dict[str, dict[str, Code]] = {
    "ascites": _FINDING,
    "peritoneal_nodules": _FINDING,
    "acoustic_shadowing": _FINDING,
    "laterality": _LATERALITY,
}
_HEART: dict[str, dict[str, Code]] = {
    "regional_wall_motion": _group(
        "SCT",
        3703,
        {
            "hypokinetic": ("37706002", "Hypokinesis"),
            "akinetic": ("195675009", "Akinesis"),
            "dyskinetic": ("25437005", "Dyskinesis"),
        },
    ),
    "aortic_stenosis": _DEGREE_OR_NONE,
    "aortic_regurgitation": _DEGREE,
    "mitral_stenosis": _DEGREE_OR_NONE,
    "mitral_regurgitation": _DEGREE,
    "tricuspid_regurgitation": _DEGREE,
    "site": {
        **_group(
            "SCT",
            12305,
            {
                "left atrium": ("82471001", "Left atrium"),
                "left ventricle": ("87878005", "Left ventricle"),
                "right atrium": ("73829009", "Right atrium"),
                "right ventricle": ("53085002", "Right ventricle"),
                "aortic valve": ("34202007", "Aortic Valve"),
                "mitral valve": ("91134007", "Mitral Valve"),
                "tricuspid valve": ("46030003", "Tricuspid valve"),
                "pulmonary valve": ("39057004", "Pulmonic Valve"),
            },
        ),
        **_group("SCT", 4, {"left atrial appendage": ("33626005", "Left auricular appendage")}),
    },
}
_VESSEL: dict[str, dict[str, Code]] = {
    "laterality": _LATERALITY,
    "segment": _group(
        "SCT",
        12104,
        {
            "common carotid": ("32062004", "Common carotid artery"),
            "carotid bulb": ("21479005", "Carotid Bulb"),
            "internal carotid": ("86117002", "Internal carotid artery"),
            "external carotid": ("22286001", "External carotid artery"),
        },
    ),
}
_FIELDS: dict[Organ, dict[str, dict[str, Code]]] = {
    "breast": _BREAST,
    "thyroid": _THYROID,
    "liver": _LIVER,
    "kidney": {"laterality": _LATERALITY},
    "ovary": _OVARY,
    "heart": _HEART,
    "vessel": _VESSEL,
}

CODES: dict[tuple[Organ, str, str], Code] = {
    **{(organ, "organ", organ): code for organ, code in _ORGANS.items()},
    **{
        (organ, field, value): code
        for organ, by_field in _FIELDS.items()
        for field, by_value in by_field.items()
        for value, code in by_value.items()
    },
}
"""Organ, field, value to its code."""


def code_of(organ: Organ, field: str, value: str) -> Code | None:
    """The code of a value, or ``None`` where none is certain."""
    return CODES.get((organ, field, value))
