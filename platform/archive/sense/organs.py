"""From a header's words and codes to an organ of the lexicon and a side of the patient.

Words are English, German, French, Spanish and Chinese, compared without accents and capitals. Chinese has
no spaces, so its words count anywhere, the others as whole words only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from pydicom.sr.coding import Code

from sonoloop.platform.lexicon import Organ
from sonoloop.platform.lexicon.codes import CODES

Laterality = Literal["left", "right", "bilateral"]
"""The lexicon's sides, and both."""

_WORDS: dict[Organ, tuple[str, str]] = {
    # "brust" alone is the chest too, but a German header that means the chest says thorax or brustwand;
    # French "sein" only beside words that German, where it is a verb, does not have
    "breast": (
        r"breasts?|mamma|mammae|mammary|mammasono\w*|brust|bruste|seins|sein (?:gauche|droit)|du sein"
        r"|mammaires?|mamas?|mamari[ao]s?",
        "乳腺|乳房",
    ),
    "thyroid": (r"thyroid\w*|schilddrue?sen?\w*|tiroid\w*", "甲状腺"),
    "liver": (r"liver|hepat\w*|leber|lebersono\w*|foie|higado", "肝"),
    # not the adrenal gland, which both languages name after the kidney
    "kidney": (
        r"kidneys?|renale?s?|nieren?|nierensono\w*|reins|rein (?:gauche|droit)|renaux|rinon(?:es)?",
        "肾(?!上腺)",
    ),
    # not "pelvis": a header's word for bladder, prostate and renal pelvis too
    "ovary": (
        r"ovary|ovaries|ovarian|ovar|ovarien|ovaires?|ovarios?|ovaric[ao]s?|adnex\w*|uterus|uterine?s?|uterin[ao]?"
        r"|utero|gebarmutter|eierstock\w*|gyna?ecolog\w*|gynakolog\w*|ginecolog\w*|transvagin\w*|endovagin\w*",
        "卵巢|附件|子宫",
    ),
    "heart": (
        r"heart|cardiac|cardiaque|cardiac[ao]s?|echocardio\w*|echokardio\w*|ecocardio\w*|herz"
        r"|herzecho\w*|coeur|corazon",
        "心脏|心超|超声心动",
    ),
    "vessel": (r"carotids?|carotis|carotiden|karotis|karotiden|carotid[ae]s?|carotidien\w*", "颈动脉"),
}
_SIDES: dict[Laterality, tuple[str, str]] = {
    "left": (r"left|lt|links|linke[rsnm]?|gauches?|izquierd[ao]s?", "左"),
    "right": (r"right|rt|rechts|rechte[rsnm]?|droite?s?|derech[ao]s?", "右"),
    "bilateral": (
        r"bilateral\w*|both (?:sides|breasts|kidneys)|beidseit\w*|beids|bds|beide[rsnm]?",
        "双侧|双肾|双乳",
    ),
}
_ORGAN_FIELDS = ("organ", "lobe", "segment", "site", "quadrant", "clock_position")
"""Fields of the lexicon whose codes are places in one organ."""
_ORGAN_CODES: tuple[tuple[Code, Organ], ...] = (
    *(
        (Code(c.value, c.scheme, c.meaning), organ)
        for (organ, field, _), c in CODES.items()
        if field in _ORGAN_FIELDS
    ),
    (Code("35039007", "SCT", "Uterus"), "ovary"),
    (Code("80272002", "SCT", "Carotid Bifurcation"), "vessel"),
)
"""Source: DICOM PS3.16, CID 4, 12104, and the lexicon's own codes."""
_SIDE_CODES: tuple[tuple[Code, Laterality], ...] = (
    (Code("7771000", "SCT", "Left"), "left"),
    (Code("24028007", "SCT", "Right"), "right"),
    (Code("51440002", "SCT", "Right and left"), "bilateral"),
)
"""Source: DICOM PS3.16, CID 244."""


def organs_in_text(text: str) -> frozenset[Organ]:
    """The organs that a text names."""
    plain = _plain(text)
    return frozenset(organ for organ, words in _WORDS.items() if _names(words, plain))


def organ_from_text(text: str) -> Organ | None:
    """The one organ that the text names, or ``None`` where it names none or several."""
    return agreed([organs_in_text(text)])


def organs_of_codes(codes: Iterable[Code]) -> frozenset[Organ]:
    """The organs that coded terms name; SNOMED's older SRT codes count as the SCT ones that replaced them."""
    return frozenset(organ for code in codes for known, organ in _ORGAN_CODES if code == known)


def agreed(statements: Iterable[frozenset[Organ]]) -> Organ | None:
    """The one organ that all statements allow; those that name none allow every organ.

    "Liver and kidney" beside "liver" leaves the liver; "liver" beside "kidney", or only "liver and kidney",
    leaves nothing to go by.
    """
    named = [organs for organs in statements if organs]
    common = frozenset.intersection(*named) if named else frozenset()
    return next(iter(common)) if len(common) == 1 else None


def side_in_text(text: str) -> Laterality | None:
    """The side that a text names; both where it names either one."""
    plain = _plain(text)
    return _side({side for side, words in _SIDES.items() if _names(words, plain)})


def side_of_codes(codes: Iterable[Code]) -> Laterality | None:
    """The side that coded terms name."""
    return _side({side for code in codes for known, side in _SIDE_CODES if code == known})


def _side(named: set[Laterality]) -> Laterality | None:
    if not named:
        return None
    return next(iter(named)) if len(named) == 1 else "bilateral"


def _names(words: tuple[str, str], plain: str) -> bool:
    spaced, anywhere = words
    return re.search(rf"\b(?:{spaced})\b|{anywhere}", plain, re.ASCII) is not None


def _plain(text: str) -> str:
    """Without accents, capitals, and the signs that stand for spaces in headers."""
    letters = unicodedata.normalize("NFKD", text.casefold()).replace("œ", "oe")
    return "".join(" " if sign in "_^/\\-" else sign for sign in letters if not unicodedata.combining(sign))
