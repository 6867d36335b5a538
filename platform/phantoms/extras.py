"""Objects beside the phantoms: broken ones that an index must reject, and real ones from pydicom's wheel."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage

from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup, build_study

REAL_NAMES = (
    "ExplVR_BigEnd.dcm",
    "examples_jpeg2k.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "examples_ybr_color.dcm",
)
"""The files of modality US that the pydicom 3 wheel ships; two show a hospital's name, without a region."""


def broken_objects() -> list[tuple[str, bytes]]:
    """Keys and contents that no index may turn into a case. Deterministic."""
    config = PhantomConfig(
        seed=0, groups=(PhantomGroup(organ="liver", scanner="B", count=1),), cine_share=0.0, workers=1
    )
    whole = build_study(config, 0, "liver", "B", 0).files[0][1]
    return [
        ("broken/truncated.dcm", whole[: len(whole) // 2]),
        ("broken/notes.dcm", b"This is a text file that somebody named .dcm.\n"),
        ("broken/empty.dcm", b""),
        ("broken/without-pixels.dcm", _altered(whole, drop_pixels=True)),
        ("broken/computed-tomography.dcm", _altered(whole, drop_pixels=False)),
    ]


def real_examples() -> list[tuple[str, bytes]]:
    """Keys and contents of the real ultrasound files in the installed pydicom; no network.

    Raises:
        FileNotFoundError: the installed pydicom does not ship one of `REAL_NAMES`.
    """
    found = []
    for name in REAL_NAMES:
        path = get_testdata_file(name, download=False)
        if path is None:
            raise FileNotFoundError(
                f"expected {name} in the installed pydicom {pydicom.__version__}, found none"
            )
        found.append((f"real/{name}", Path(str(path)).read_bytes()))
    return found


def _altered(data: bytes, *, drop_pixels: bool) -> bytes:
    """The same object without its pixels, or declared to be a CT image."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    if drop_pixels:
        del dataset.PixelData
    else:
        dataset.Modality, dataset.SOPClassUID = "CT", CTImageStorage
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()
