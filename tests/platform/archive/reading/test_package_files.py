"""Every ultrasound file of ``pydicom-data``, ``deid-data`` and the pydicom wheel decodes on every frame.

No ultrasound file among them is beyond the decoders here; of the other objects three are, see below.
"""

from __future__ import annotations

import functools
import io
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import as_ultrasound
from pydicom.pixels import apply_color_lut, pixel_array

from sonoloop.platform.archive.reading.members import is_container, iter_members, open_member
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError

PACKAGES = ("pydicom-data", "deid-data", "pydicom")
NUM_ULTRASOUND = 26
"""As counted in pydicom-data 1.0, deid-data 0.0.20 and pydicom 3.0.2; more may come, fewer may not."""
BIG_ENDIAN_PALETTES = ("OBXXXX1A_expb.dcm", "OBXXXX1A_expb_2frame.dcm")
"""pydicom 3.0.2 takes their tables for little-endian; test_display compares them with their twins."""


@functools.cache
def objects() -> dict[str, Path | tuple[Path, str]]:
    """Each DICOM file of the packages, and each member of their archives."""
    found: dict[str, Path | tuple[Path, str]] = {}
    for package in PACKAGES:
        for file in distribution(package).files or ():
            path = Path(str(file.locate()))
            if path.suffix == ".dcm" and path.exists():
                found[path.name] = path
            elif path.suffix == ".zip" and is_container(path.read_bytes()[:512], path.name):
                with path.open("rb") as archive:
                    found.update({m.path: (path, m.path) for m, _ in iter_members(archive)})
    return found


def content(place: Path | tuple[Path, str]) -> bytes:
    if isinstance(place, Path):
        return place.read_bytes()
    with place[0].open("rb") as archive:
        return open_member(archive, place[1]).read()


def is_ultrasound(place: Path | tuple[Path, str]) -> bool:
    if not isinstance(place, Path):
        with zipfile.ZipFile(place[0]) as archive, archive.open(place[1]) as member:
            dataset = pydicom.dcmread(member, stop_before_pixels=True, force=True)
    else:
        dataset = pydicom.dcmread(place, stop_before_pixels=True, force=True)
    return dataset.get("Modality") in ("US", "IVUS") and "Rows" in dataset


ULTRASOUND = sorted(name for name, place in objects().items() if is_ultrasound(place))


def test_the_packages_still_hold_their_ultrasound_files() -> None:
    assert len(ULTRASOUND) >= NUM_ULTRASOUND
    assert {"GREYSCALE_CINE.dcm", "RGB_CINE.dcm", "color3d_jpeg_baseline.dcm"} <= set(ULTRASOUND)


@pytest.mark.parametrize("name", ULTRASOUND)
def test_every_frame_decodes_and_looks_as_pydicom_shows_it(name: str) -> None:
    data = content(objects()[name])
    instance = open_instance(io.BytesIO(data), name=name)
    dataset = pydicom.dcmread(io.BytesIO(data))
    assert instance.num_frames == int(dataset.get("NumberOfFrames") or 1)
    for index in range(instance.num_frames):
        frame = instance.frame(index)
        assert frame.dtype == np.uint8
        assert frame.std() > 5
        if index % 10 == 0 and name not in BIG_ENDIAN_PALETTES:
            assert np.abs(frame.astype(np.int16) - shown_by_pydicom(dataset, index)).mean() < 1


def shown_by_pydicom(dataset: pydicom.Dataset, index: int) -> np.ndarray:
    pixels = pixel_array(dataset, index=index)
    if dataset.PhotometricInterpretation != "PALETTE COLOR":
        return pixels
    pixels = apply_color_lut(pixels, dataset)
    return pixels >> 8 if pixels.max() > 255 else pixels


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("JPEG-lossy.dcm", Reason.TRUNCATED),  # 12-bit JPEG with a spectral selection that is not allowed
        ("JPEG2000-embedded-sequence-delimiter.dcm", Reason.UNREADABLE),  # one was written over the size
        ("liver.dcm", Reason.UNREADABLE),  # a mask of 1 bit
    ],
)
def test_the_objects_beyond_the_decoders_are_refused_also_as_ultrasound(name: str, reason: Reason) -> None:
    with pytest.raises(RejectedError) as refused:
        open_instance(io.BytesIO(as_ultrasound(name)), name=name).frame(0)
    assert refused.value.reason == reason


def test_whatever_else_they_hold_is_refused_with_its_reason() -> None:
    reasons = {}
    for name in sorted(set(objects()) - set(ULTRASOUND)):
        try:
            open_instance(io.BytesIO(content(objects()[name])), name=name)
        except RejectedError as err:
            reasons[name] = err.reason
        else:
            raise AssertionError(f"{name} was taken for ultrasound")
    assert {Reason.NOT_ULTRASOUND, Reason.DOCUMENT} <= set(reasons.values())
    assert reasons["CT_small.dcm"] == Reason.NOT_ULTRASOUND
    assert reasons["DICOMDIR-empty.dcm"] == Reason.DOCUMENT
