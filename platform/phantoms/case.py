"""One phantom case: what is true about it, and everything that rendering needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sonoloop.platform.lexicon import ORGANS, Entities, KidneyEntities, LiverEntities, Organ, ThyroidEntities
from sonoloop.platform.phantoms import abdomen, small_parts
from sonoloop.platform.phantoms.draws import draw_entities
from sonoloop.platform.phantoms.lesion import Lesion, Look, look_of
from sonoloop.platform.phantoms.reports import write_report
from sonoloop.platform.phantoms.scanners import SCANNER_KINDS, Acquisition, ScannerKind, draw_acquisition

Anatomy = small_parts.Breast | small_parts.Thyroid | abdomen.Liver | abdomen.Kidney


@dataclass(frozen=True)
class PhantomCase:
    """A case drawn from the lexicon; `render` turns it into frames."""

    seed: int
    index: int
    organ: Organ
    scanner: ScannerKind
    entities: Entities
    findings: str
    impression: str
    acquisition: Acquisition
    anatomy: Anatomy
    lesion: Lesion | None
    detail_seed: int


def draw_case(seed: int, index: int, organ: Organ, scanner: ScannerKind) -> PhantomCase:
    """Draw a case; the same four arguments give the same case, in any process.

    Args:
        seed: The archive's seed, >= 0.
        index: The case's number, from 0.
        organ: One of `PHANTOM_ORGANS`; it decides the probe.
        scanner: Kind of machine; it decides speckle, grey map and gain.

    Raises:
        ValueError: there is no phantom of the organ.
    """
    rng = np.random.default_rng([seed, index, ORGANS.index(organ), SCANNER_KINDS.index(scanner)])
    entities = draw_entities(rng, organ)
    acquisition = draw_acquisition(rng, organ, scanner)
    detail_seed = int(rng.integers(2**31))
    look = look_of(entities, rng) if entities.lesion == "present" else None
    anatomy, place = _draw_anatomy(rng, entities, acquisition, look, detail_seed)
    lesion = None if look is None or place is None else Lesion(look, *place, seed=detail_seed)
    findings, impression = write_report(entities, rng)
    return PhantomCase(
        seed, index, organ, scanner, entities, findings, impression, acquisition, anatomy, lesion, detail_seed
    )


def _draw_anatomy(
    rng: np.random.Generator, entities: Entities, acquisition: Acquisition, look: Look | None, seed: int
) -> tuple[Anatomy, small_parts.Place | None]:
    """The organ, and where in it the lesion lies; ``None`` without a look."""
    view = acquisition.view
    match entities:
        case LiverEntities():
            place = abdomen.place_in_liver(rng, view, look) if look else None
            return abdomen.draw_liver(rng, view, entities, place, seed), place
        case KidneyEntities():
            kidney = abdomen.draw_kidney(rng, view, entities, seed)
            return kidney, abdomen.place_in_kidney(rng, view, look, kidney) if look else None
        case ThyroidEntities():
            thyroid = small_parts.draw_thyroid(rng, view, seed)
            return thyroid, small_parts.place_in_thyroid(rng, view, look, thyroid) if look else None
        case _:
            breast = small_parts.draw_breast(rng, view, seed)
            return breast, small_parts.place_in_breast(rng, view, look) if look else None
