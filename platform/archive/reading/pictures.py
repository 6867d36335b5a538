"""Plain pictures, through Pillow. A folder of pictures is one study."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image

from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.reading.pixels import MAX_FRAME_PIXELS, quiet, to_uint8
from sonoloop.platform.archive.sense.facts import UltrasoundFacts
from sonoloop.platform.archive.sense.organs import organ_from_text
from sonoloop.platform.errors import Reason, RejectedError

PICTURE_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP")
"""Pillow knows more, some of which start other programs (EPS)."""


def open_picture(file: BinaryIO, name: str) -> Instance:
    """Read a picture's header; raises `RejectedError`."""
    try:
        with quiet():
            picture = Image.open(file, formats=PICTURE_FORMATS)
    except Exception as err:  # arbitrary bytes, as above
        raise RejectedError(
            Reason.NOT_AN_IMAGE, f"expected DICOM or a picture ({type(err).__name__})"
        ) from None
    width, height = picture.size
    if width * height > MAX_FRAME_PIXELS:
        raise RejectedError(Reason.TOO_LARGE, f"claims {height} x {width} pixels")
    case_name = name.rpartition("/")[0] or name
    return Instance(
        study_id=case_name,
        series_id=case_name,
        patient_id=case_name,
        instance_uid=name,
        name=name,
        modality="US",
        transfer_syntax=f"{picture.format}",
        num_frames=1,
        rows=height,
        columns=width,
        regions=(),
        facts=UltrasoundFacts(organ_hint=organ_from_text(case_name)),
        frame=lambda _: _picture_frame(picture),
    )


def _picture_frame(picture: Image.Image) -> Frame:
    try:
        with quiet():
            if picture.mode.startswith(("I", "F")):
                return to_uint8(np.asarray(picture))
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except Exception as err:  # a broken chunk raises SyntaxError, others OSError, ValueError, struct.error
        raise RejectedError(
            Reason.TRUNCATED, f"the picture cannot be decoded ({type(err).__name__})"
        ) from None
