"""One object of the archive, opened: its header's facts and a way to decode one frame.

Frames are uint8 arrays ``(rows, columns)`` or ``(rows, columns, 3)`` RGB; ``frame_index`` counts from 0.
Identifiers live in this object only and leave it as keyed hashes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pydicom
from numpy.typing import NDArray

from sonoloop.platform.archive.sense.facts import UltrasoundFacts
from sonoloop.platform.archive.sense.regions import Region

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Instance:
    """A readable ultrasound object.

    ``regions`` is empty where the header declares none; ``dataset`` (header only) is ``None`` for anything
    but DICOM; ``name`` is the object's key below the archive's root. ``frame`` decodes one frame and raises
    `RejectedError` where it cannot.
    """

    study_id: str = field(repr=False)
    series_id: str = field(repr=False)
    patient_id: str = field(repr=False)
    instance_uid: str = field(repr=False)
    name: str = field(repr=False)
    modality: str
    transfer_syntax: str
    num_frames: int
    rows: int
    columns: int
    regions: tuple[Region, ...]
    facts: UltrasoundFacts
    frame: Callable[[int], Frame] = field(repr=False)
    dataset: pydicom.Dataset | None = field(default=None, repr=False)
