"""Who made the machine, and its name and its transducer's, out of elements that people can type into."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import pydicom

from sonoloop.platform.archive.sense.elements import text, values

Vendor = Literal[
    "Alpinion",
    "BK Medical",
    "Butterfly",
    "Canon",
    "Clarius",
    "Edan",
    "Esaote",
    "Fujifilm Sonosite",
    "GE",
    "Hitachi",
    "Konica Minolta",
    "Mindray",
    "Philips",
    "Samsung Medison",
    "Siemens",
    "SonoScape",
    "SuperSonic Imagine",
    "Telemed",
    "Terason",
    "Ultrasonix",
    "Verathon",
    "VINNO",
    "Zonare",
]
_MAKERS: dict[Vendor, str] = {
    "Alpinion": r"alpinion",
    "BK Medical": r"b[- ]?k[- ]?(?:medical|ultrasound)|bruel\W+kjaer|analogic",
    "Butterfly": r"butterfly",
    "Canon": r"canon|toshiba",
    "Clarius": r"clarius",
    "Edan": r"edan",
    "Esaote": r"esaote|biosound",
    "Fujifilm Sonosite": r"sonosite",
    "GE": r"g\.?e\.?|gems|general electric|kretz\w*|vingmed|diasonics",
    "Hitachi": r"hitachi|aloka|fujifilm healthcare",
    "Konica Minolta": r"konica",
    "Mindray": r"mindray",
    "Philips": r"philips|atl|agilent|hewlett\W+packard|advanced technology laboratories",
    "Samsung Medison": r"samsung\w*|medison",
    "Siemens": r"siemens|acuson",
    "SonoScape": r"sonoscape",
    "SuperSonic Imagine": r"supersonic\w*|ssi|hologic",
    "Telemed": r"telemed",
    "Terason": r"terason|teratech",
    "Ultrasonix": r"ultrasonix",
    "Verathon": r"verathon|diagnostic ultrasound",
    "VINNO": r"vinno",
    "Zonare": r"zonare|z\.?one",
}
_FAMILIES: dict[Vendor, str] = {
    "Canon": r"aplio|xario|nemio|viamo",
    "Esaote": r"mylab\w*",
    "GE": r"logiq|voluson|vivid|venue|vscan",
    "Hitachi": r"arietta|ascendus|preirus|prosound|hi vision",
    "Mindray": r"resona|dc-\w+|m9",
    "Philips": r"epiq|affiniti|iu22|ie33|cx50|lumify|hdi|sonos",
    "Siemens": r"sequoia|antares|acuson|redwood|juniper",
    "SuperSonic Imagine": r"aixplorer|mach \d+",
}
"""Names of models that only one maker uses, for headers without a maker."""

MAX_NAME_LENGTH = 48
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 .,+&()/-]+")
_LONG_NUMBER = re.compile(r"\S*\d(?:[.,/-]?\d){4,}\S*")
"""Serial numbers, dates and identifiers, with what they hang on."""
_IDENTIFYING = (
    "PatientName",
    "OtherPatientNames",
    "PatientID",
    "OperatorsName",
    "PerformingPhysicianName",
    "ReferringPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "AccessionNumber",
    "InstitutionName",
)


def vendor_of(dataset: pydicom.Dataset) -> Vendor | None:
    """The maker, by its own name or by one that it bought; else by the model's family."""
    for table, keyword in ((_MAKERS, "Manufacturer"), (_FAMILIES, "ManufacturerModelName")):
        name = _ascii(text(dataset, keyword)).casefold()
        for vendor, words in table.items():
            if re.search(rf"(?<![a-z])(?:{words})(?![a-z])", name):
                return vendor
    return None


def scanner_of(dataset: pydicom.Dataset) -> str | None:
    """Maker and model as a person would name them, without anything that could name a person."""
    maker = vendor_of(dataset) or _device_name(dataset, "Manufacturer")
    model = _device_name(dataset, "ManufacturerModelName")
    if maker and model and model.casefold().startswith(maker.casefold()):
        maker = None
    return " ".join(filter(None, (maker, model))) or None


def transducer_of(dataset: pydicom.Dataset) -> str | None:
    """The transducer's model, or its geometry where no model is named."""
    names = (_device_name(dataset, keyword) for keyword in ("TransducerData", "TransducerType"))
    return next(filter(None, names), None)


def _device_name(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """A device's name cut down to plain signs; the first value of several.

    A word that this header has in the name of a person or a place goes, as do numbers of five digits or
    more.
    """
    found = values(dataset, keyword)
    plain = _NOT_PLAIN.sub(" ", _ascii(str(found[0]) if found else ""))
    private = {word for word in _words(text(dataset, *_IDENTIFYING)) if len(word) > 2}
    kept = [word for word in _LONG_NUMBER.sub(" ", plain).split() if private.isdisjoint(_words(word))]
    name = " ".join(kept)[:MAX_NAME_LENGTH].strip(" .,-/")
    return name if re.search(r"[A-Za-z0-9]", name) else None


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", _ascii(name).casefold())


def _ascii(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.replace("_", "-"))
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign))
