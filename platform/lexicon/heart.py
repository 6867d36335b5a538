"""Echocardiography in adults; the lesion is an intracardiac mass.

Sources:

- chamber size, systolic function and wall motion (the worst segment's): ASE/EACVI chamber quantification,
  Lang et al., J Am Soc Echocardiogr 2015;28:1-39. Degrees exist there for the left chambers only.
- aortic stenosis: Baumgartner et al., J Am Soc Echocardiogr 2017;30:372-392; mitral stenosis: Baumgartner et
  al., J Am Soc Echocardiogr 2009;22:1-23.
- regurgitation: Zoghbi et al., J Am Soc Echocardiogr 2017;30:303-371.
- pericardial effusion: Klein et al., J Am Soc Echocardiogr 2013;26:965-1012.
- mass: Saric et al., J Am Soc Echocardiogr 2016;29:1-42.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from sonoloop.platform.lexicon.base import Entities

LeftChamberSize = Literal[
    "normal", "mildly enlarged", "moderately enlarged", "severely enlarged", "not assessed"
]
RightChamberSize = Literal["normal", "enlarged", "not assessed"]
Stenosis = Literal["none", "mild", "moderate", "severe", "not assessed"]
Regurgitation = Literal["none or trace", "mild", "moderate", "severe", "not assessed"]


class HeartEntities(Entities):
    """Chambers, valves and pericardium, and one intracardiac mass. ``lv`` and ``la`` are the left ventricle
    and atrium, ``rv`` and ``ra`` the right ones."""

    organ: Literal["heart"]
    lv_size: LeftChamberSize
    lv_systolic_function: Literal[
        "normal", "mildly reduced", "moderately reduced", "severely reduced", "not assessed"
    ]
    regional_wall_motion: Literal[
        "normal or hyperkinetic", "hypokinetic", "akinetic", "dyskinetic", "not assessed"
    ]
    la_size: LeftChamberSize
    rv_size: RightChamberSize
    ra_size: RightChamberSize
    aortic_stenosis: Stenosis
    aortic_regurgitation: Regurgitation
    mitral_stenosis: Stenosis
    mitral_regurgitation: Regurgitation
    tricuspid_regurgitation: Regurgitation
    pericardial_effusion: Literal["none", "small", "moderate", "large", "not assessed"]
    mass_kind: Literal["thrombus", "vegetation", "tumor", "undetermined", "not assessed"] | None = None
    attachment: Literal["sessile", "pedunculated", "not assessed"] | None = None
    mobility: Literal["mobile", "not mobile", "not assessed"] | None = None
    site: (
        Literal[
            "left atrium",
            "left atrial appendage",
            "left ventricle",
            "right atrium",
            "right ventricle",
            "aortic valve",
            "mitral valve",
            "tricuspid valve",
            "pulmonary valve",
        ]
        | None
    ) = None

    QUALIFIERS: ClassVar[tuple[str, ...]] = ("site", "size_mm")
